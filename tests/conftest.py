"""Eight host devices for every test, before jax starts; float64 where a test asks for it."""

import ctypes
import functools
import gc
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test waits for a network
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",  # tests compile a lot and run little: this halves the suite
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",  # the older emitters compile a step three times as fast
        "--xla_cpu_parallel_codegen_split_count=1",  # a program is too small to be worth splitting
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


class Programs:
    """Counts what is compiled, and forgets it where a module leaves much: a worker would grow to several gigabytes."""

    most = 300

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event, seconds, **_):
        self.count += event.endswith("backend_compile_duration")

    def bound(self):
        if self.count > self.most:
            jax.clear_caches()
            gc.collect()
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps what is freed until it is told
            if trim:
                trim(0)
            self.count = 0


PROGRAMS = Programs()


@pytest.fixture(scope="module", autouse=True)
def _memory_bounded():
    yield
    PROGRAMS.bound()


@pytest.fixture(scope="module")
def one_device():
    """Has stages run on one of the eight devices, in modules about something else: their steps compile in less time."""
    from fmzoo import parallel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "mesh", functools.partial(parallel.mesh, devices=jax.devices()[:1]))
        yield


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
