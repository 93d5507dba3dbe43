"""`python -m launch.sample` in a checkout is the command `jvflow sample`, see jvflow/cli/sample.py."""

from launch import run_command

if __name__ == "__main__":
    run_command("sample")
