"""`python -m launch.demo` in a checkout is the command `jvflow demo`, see jvflow/cli/demo.py."""

from launch import run_command

if __name__ == "__main__":
    run_command("demo")
