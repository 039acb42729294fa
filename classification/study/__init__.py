"""Studies: many training runs of one YAML file, each in a folder and a process of its own, and their comparison."""
