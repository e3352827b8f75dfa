"""The view of `Console`: numbers and curves in progress, their lines, and the screen that they are on."""
