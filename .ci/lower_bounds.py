"""Print the dependencies of the installed base at their lower bounds, one a line, for pip."""

from importlib.metadata import requires

for requirement in requires("zsl-tagger") or []:
    if "extra ==" not in requirement:
        print(requirement.replace(">=", "=="))
