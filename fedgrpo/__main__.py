"""`python -m fedgrpo`: the `fedgrpo` command, for an environment whose scripts are not on the PATH."""

from fedgrpo.common.cli.main import main

if __name__ == "__main__":
    main()
