import pytest


@pytest.fixture
def two(tiny_run):
    def make(name="ppo"):
        run = tiny_run(name)
        run.setup = run.setup.model_copy(update={"compute": run.setup.compute.model_copy(update={"num_processes": 2})})
        return run

    return make


def test_first(two):
    import time

    run = two()
    t = time.monotonic()
    run()
    print(time.monotonic() - t)
    for m, s in run.logged:
        print(s, m)
    print(run.evaluations())
