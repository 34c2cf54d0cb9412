"""The roof's own errors; each floor below has a tree of its own.

AtbError
├── WorkspaceError     a run's folder cannot be used as asked
├── VerificationError  an engine, file or number is not what it should be
├── ExportError        a model that cannot be exported
├── LayoutError        a bundle that cannot be laid out as asked (atb_export.layouts.writing)
├── ServingError       a server that does not answer, a native program that is missing (atb_export.serving.errors)
├── BenchError         what a benchmark cannot time (atb_export.bench.errors)
└── ClusterError       no Ray, no cluster, or none that can do the jobs (atb_export.executors.ray_cluster)
"""


class AtbError(Exception):
    """Base of the toolchain's errors; its message says the rule, the value, what exists and how to fix it."""


class WorkspaceError(AtbError):
    """The output folder is taken, in use, or holds something else."""


class VerificationError(AtbError):
    """Something computes other numbers than it should; the message shows the worst case."""


class ExportError(AtbError):
    """The model on disk is not one this toolchain can export."""
