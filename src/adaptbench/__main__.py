"""`python -m adaptbench run ...` is `adaptbench run ...`."""

from adaptbench.commands import main

if __name__ == "__main__":
    main()
