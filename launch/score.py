"""`python -m launch.score` in a checkout is the command `jvflow score`, see jvflow/cli/score.py."""

from launch import run_command

if __name__ == "__main__":
    run_command("score")
