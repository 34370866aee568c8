"""What the components share: operations that fail one host alone, files, jobs, downloads."""
