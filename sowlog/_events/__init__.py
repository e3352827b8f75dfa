"""The bytes of TensorBoard's event files: made, appended to a file, read back."""
