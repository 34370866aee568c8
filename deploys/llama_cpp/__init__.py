"""llama.cpp, compiled on the host: immutable under its build key, never compiled twice."""

from __future__ import annotations

from dataclasses import replace

from pyinfra.api import deploy

from deploys.common.changes import Change, record
from deploys.common.downloads import (
    fetch_lines,
    fetch_probe,
    fetch_progress,
    upload_artifacts,
)
from deploys.common.jobs import Job, run_job
from deploys.common.operations import (
    Commands,
    HostError,
    current_host,
    host_operation,
    host_settings,
    read,
    system,
)
from deploys.llama_cpp.build import (
    BUILD_PROBE,
    WORK_MOUNT,
    Build,
    BuildError,
    build_progress,
    build_script,
    compile_seconds,
    job_count,
    machine,
    plan_build,
    source_script,
    uses_cuda,
)
from facts.llama_cpp import LlamaCppBuilds, LlamaCppState
from inventories.settings import ArchiveSource, Artifact, CudaSettings, LlamaCppSettings

__all__ = ["NO_GPU", "compiled", "gpu_change", "host_build", "llama_cpp"]


NO_GPU = Change(
    "running",
    "GPU",
    "no GPU answers (nvidia-smi)",
    remedy="install or mend the NVIDIA driver, or set cuda: {provider: none} for a CPU host",
    component="preflight",
)


@deploy("llama.cpp")
def llama_cpp(settings: LlamaCppSettings | None = None, cuda: CudaSettings | None = None) -> None:
    """Compile llama.cpp with the host's toolkit, once for each set of inputs.

    + settings, cuda: of one build; left out, all builds of the host are made: its own, and those
      that servers have of their own
    """
    if settings is not None:
        builds: tuple[tuple[LlamaCppSettings, CudaSettings], ...] = (
            (settings, cuda or CudaSettings()),
        )
    else:
        builds = host_settings().builds
    for number, (build, toolkit) in enumerate(builds):
        name = "Build llama.cpp" if number == 0 else f"Build llama.cpp ({number + 1})"
        compiled(name=name, settings=build, cuda=toolkit)


@host_operation
def compiled(settings: LlamaCppSettings, cuda: CudaSettings) -> Commands:
    """Have the build that these settings make on this host.

    + settings: source, number, targets, architectures, definitions
    + cuda: the toolkit to build with; provider ``none`` makes a CPU build
    """
    planned = host_build(settings, cuda)
    state = read(LlamaCppBuilds)
    if planned.name in state.builds and planned.name not in state.damaged:
        current_host().noop(f"{planned.path} is built")
        return
    _record(settings, planned, state)
    if planned.name not in state.prepared:
        yield from _prepare_source(settings, planned)
    yield from run_job(compile_job(settings, planned, uses_cuda(settings, cuda)))


def _record(settings: LlamaCppSettings, planned: Build, state: LlamaCppState) -> None:
    if planned.name not in state.builds:
        fetch = 0 if planned.name in state.prepared else _archive_bytes(settings)
        seconds = _compile_seconds(settings, planned)
        record(Change("declared", planned.path, "not built", fetch=fetch, compile_seconds=seconds))
    for path in state.damaged.get(planned.name, ()):
        record(Change("declared", path, "not the file that was built: another size or time"))


def _archive_bytes(settings: LlamaCppSettings) -> int:
    """Bytes of the source; 0 for git, which doesn't say beforehand."""
    source = settings.source
    return source.artifact.size if isinstance(source, ArchiveSource) else 0


def _compile_seconds(settings: LlamaCppSettings, planned: Build) -> int:
    facts = system()
    cuda = planned.definitions["GGML_CUDA"] == "ON"
    jobs = job_count(settings, facts.cores, facts.memory_available, cuda)
    return compile_seconds(planned, jobs)


def host_build(settings: LlamaCppSettings, cuda: CudaSettings) -> Build:
    """The build that these settings make on the current host; HostError when they make none."""
    facts = system()
    with_cuda = uses_cuda(settings, cuda)
    if facts.gpu_error and with_cuda and not settings.architectures:
        raise HostError(facts.gpu_error, gpu_change(facts.gpu_error))
    on = machine(facts)
    try:
        return plan_build(settings, cuda, on)
    except BuildError as error:
        missing = with_cuda and not on.architectures and not settings.architectures
        raise HostError(str(error), *([NO_GPU] if missing else [])) from error


def gpu_change(error: str) -> Change:
    """GPUs that can't be asked, as a difference; the message carries its remedy in brackets."""
    summary, _, remedy = error.removesuffix(")").partition(" (")
    return Change("running", "NVIDIA driver", summary, remedy=remedy, component="preflight")


def _prepare_source(settings: LlamaCppSettings, planned: Build) -> Commands:
    if isinstance(settings.source, ArchiveSource):
        archive = replace(settings.source.artifact, name="source.tar")
        yield from upload_artifacts((archive,))
        yield from run_job(_archive_job(settings, planned, archive))
        return
    yield from run_job(
        Job(
            name=f"llama.cpp-source-{planned.name}",
            title=f"fetching llama.cpp {settings.commit[:7]}",
            script=source_script(settings, planned),
            remedy=f"check that the host reaches {settings.source.repository}",
        )
    )


def _archive_job(settings: LlamaCppSettings, planned: Build, archive: Artifact) -> Job:
    return Job(
        name=f"llama.cpp-source-{planned.name}",
        title=f"fetching llama.cpp {settings.commit[:7]}",
        script=fetch_lines((archive,), planned.work) + source_script(settings, planned),
        probe=fetch_probe((archive,), planned.work),
        progress=lambda lines: fetch_progress((archive,), lines),
        remedy="check llama_cpp.archive and that the host reaches its url",
    )


def compile_job(settings: LlamaCppSettings, planned: Build, cuda: bool) -> Job:
    """The job that compiles; it has no network, so it can't download what wasn't locked."""
    facts = system()
    jobs = job_count(settings, facts.cores, facts.memory_available, cuda)
    return Job(
        name=f"llama.cpp-build-{planned.name}",
        title=f"building llama.cpp {planned.name}",
        script=build_script(planned, jobs),
        probe=BUILD_PROBE,
        progress=build_progress,
        network=False,
        binds={WORK_MOUNT: planned.work},
        remedy="if a compiler was killed, lower llama_cpp.jobs",
    )
