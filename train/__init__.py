"""The program `python -m train`: experiments that sow, driven by the files of configs/."""
