"""The examples in the docstrings of the Python API."""

import doctest
import inspect

import sae_nfm


def public():
    """`study`, `load`, and all that can be called of a `Dictionary`, by name."""
    methods = inspect.getmembers(sae_nfm.Dictionary, inspect.isfunction)
    own = {f"Dictionary.{name}": method for name, method in methods if not name.startswith("_")}
    return {"study": sae_nfm.study, "load": sae_nfm.load, **own}


def run(name):
    """Run the example of a function; what does not come out as it says there is an error."""
    example = doctest.DocTestParser().get_doctest(
        inspect.getdoc(public()[name]), {"sae_nfm": sae_nfm}, name, None, None
    )
    assert example.examples, f"{name} has no example"
    told = []
    failed = doctest.DocTestRunner().run(example, out=told.append).failed
    assert failed == 0, "".join(told)
