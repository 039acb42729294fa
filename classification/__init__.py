"""A YAML-driven trainer for image classification whose configurations have the schema of PaddleClas."""
