"""Eight simulated devices for every test, and a cache of compiled programs between them."""

import os
import tempfile

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_cpu_collective_call_terminate_timeout_seconds=600"
)
os.environ["JAX_PLATFORMS"] = "cpu"
CACHE = os.path.join(tempfile.gettempdir(), f"scaling-tests-{os.getuid()}")
os.environ["SCALING_CACHE_DIR"] = CACHE

import jax  # noqa: E402

jax.config.update("jax_compilation_cache_dir", os.path.join(CACHE, "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
