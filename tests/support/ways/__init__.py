"""The ways to one number: each sows the rows of an array, and every reducer must compute the oracle's result.

A way takes the rows, shape [ROWS, 3], and returns the tree of states, as a step would have it. Where a
transform stacks states, the stacked axes are left for the test to merge. A further framework is a module
here, and a line in FRAMEWORKS.
"""

from tests.support.ways.base import Ways
from tests.support.ways.equinox import EQUINOX
from tests.support.ways.functions import FUNCTIONS
from tests.support.ways.linen import LINEN
from tests.support.ways.nnx import NNX
from tests.support.ways.passes import eager_ways, jitted_ways

FRAMEWORKS = {framework.name: framework for framework in (LINEN, NNX, FUNCTIONS, EQUINOX)}
JITTED: dict[str, Ways] = {name: jitted_ways(framework) for name, framework in FRAMEWORKS.items()}
EAGER: dict[str, Ways] = {name: eager_ways(framework) for name, framework in FRAMEWORKS.items()}
