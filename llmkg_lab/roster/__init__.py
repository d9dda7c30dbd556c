"""The variants, one YAML file each."""
