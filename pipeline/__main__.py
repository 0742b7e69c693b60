"""`python -m pipeline`: the `maskmill` command, where its script is not on the path."""

from pipeline.cli import main

if __name__ == "__main__":  # child processes that start anew import this file too
    main()
