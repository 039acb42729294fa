"""Models x backends x precisions x threads x batch sizes, measured by turns in one run."""
