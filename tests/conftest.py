"""Eight host devices for every test, before jax starts; float64 where a test asks for it."""

import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",  # tests compile a lot and run little: this halves the suite
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",  # the older emitters compile a step three times as fast
    )
)

import jax
import pytest


def pytest_configure(config):
    """Keeps what is compiled, for the workers of this session and the processes that tests start."""
    if not hasattr(config, "workerinput"):  # workers inherit the environment
        folder = tempfile.mkdtemp(prefix="fmzoo-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def x64():
    """Float64 in this test: the sharper instrument where two computations must agree."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def bucket(monkeypatch):
    """``gs://bucket`` served from memory, new for each test, as `etils.epath` reaches it through fsspec."""
    import fsspec
    from etils import epath
    from fsspec.implementations.memory import MemoryFileSystem

    path = epath.Path("gs://bucket")
    monkeypatch.setattr(path._backend, "_get_filesystem", lambda name: fsspec.filesystem("memory"))
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    path.mkdir()
    return path


def pytest_sessionfinish(session):
    """Where CI is set, a skipped test is a failed run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
