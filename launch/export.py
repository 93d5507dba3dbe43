"""`python -m launch.export` in a checkout is the command `jvflow export`, see jvflow/cli/export.py."""

from launch import run_command

if __name__ == "__main__":
    run_command("export")
