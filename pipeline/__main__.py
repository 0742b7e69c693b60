"""Run the `maskmill` command as `python -m pipeline`, for when its script is not on the PATH."""

from pipeline.cli import main

if __name__ == "__main__":  # spawned child processes import this file too
    main()
