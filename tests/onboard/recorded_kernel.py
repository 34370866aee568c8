"""What kernels and nvidia-smi wrote on somebody's machine, with where that was published.

Lines as ``dmesg | grep NVRM`` prints them: a record's further lines are indented, without a time.
Lines that say nothing about the condition are left out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recorded:
    """A machine's words on one card.

    + address, device: the card, as the text names it; where it doesn't, a likely one
    + kernel: lines of its log; ``error``: what nvidia-smi printed
    + source: where the text is published
    """

    address: str
    device: str
    kernel: str = ""
    error: str = ""
    source: str = ""


XID_79 = Recorded(
    "0000:44:00.0",
    "26b5",
    "[ 1843.308145] NVRM: Xid (PCI:0000:44:00): 79, GPU has fallen off the bus",
    source="https://github.com/NVIDIA/NVSentinel/issues/155 (comment; the time is the issue's)",
)
FALLEN_AT_BOOT = Recorded(
    "0000:b3:00.0",
    "26b5",
    """\
[ 1843.308145] NVRM: The NVIDIA GPU 0000:b3:00.0
               NVRM: (PCI ID: 10de:26b5) installed in this system has
               NVRM: fallen off the bus and is not responding to commands.
[ 1843.439662] NVRM: The NVIDIA probe routine failed for 1 device(s).""",
    source="https://github.com/NVIDIA/NVSentinel/issues/155",
)
OPEN_NEEDED = Recorded(
    "0000:02:00.0",
    "2c31",
    """\
NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c31)
NVRM: installed in this system requires use of the NVIDIA open kernel modules.
NVRM: GPU 0000:02:00.0: RmInitAdapter failed! (0x22:0x56:1017)
NVRM: GPU 0000:02:00.0: rm_init_adapter failed, device minor number 0""",
    source="a public note on an RTX PRO 4500, which left the times out; see the next",
)
OPEN_NEEDED_TIMED = Recorded(
    "0000:02:00.0",
    "2c58",
    """\
[    5.559842] NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c58)
               NVRM: installed in this system requires use of the NVIDIA open kernel modules.
[    5.559858] NVRM: GPU 0000:02:00.0: RmInitAdapter failed! (0x22:0x56:884)
[    5.560313] NVRM: GPU 0000:02:00.0: rm_init_adapter failed, device minor number 0""",
    source="a public report on an RTX 5090 Laptop with closed modules 580.105.08; the same in "
    "https://github.com/NVIDIA/open-gpu-kernel-modules/issues/862",
)
NO_GSP = Recorded(
    "0000:af:00.0",
    "1db5",
    """\
[ 1157.046099] NVRM: The NVIDIA GPU 0000:af:00.0 (PCI ID: 10de:1db5)
               NVRM: installed in this system is not supported by open
               NVRM: nvidia.ko because it does not include the required GPU
               NVRM: System Processor (GSP).
               NVRM: Please see the 'Open Linux Kernel Modules' and 'GSP
               NVRM: Firmware' sections in the driver README, available on""",
    source="https://github.com/NVIDIA/open-gpu-kernel-modules/issues/322",
)
TOO_NEW_FOR_DRIVER = Recorded(
    "0000:01:00.0",
    "25a0",
    """\
[  +0.000005] NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:25a0)
              NVRM: installed in this system is not supported by the
              NVRM: NVIDIA 520.56.06 driver release.
              NVRM: Please see 'Appendix A - Supported NVIDIA GPU Products'
              NVRM: in this release's README, available on the operating system
              NVRM: specific graphics driver download page at www.nvidia.com.""",
    source="https://github.com/NVIDIA/open-gpu-kernel-modules/issues/393",
)
LEGACY = Recorded(
    "0000:01:00.0",
    "1c8d",
    """\
Apr 13 16:41:14 nixos kernel: NVRM: The NVIDIA NVIDIA GeForce GTX 1050 GPU installed in this system
                              NVRM:  supported through the NVIDIA 580.xx Legacy drivers. Please
                              NVRM:  visit http://www.nvidia.com/object/unix.html for more
                              NVRM:  information.  The 595.58.03 NVIDIA driver will ignore
                              NVRM:  this GPU.  Continuing probe...
Apr 13 16:41:14 nixos kernel: NVRM: No NVIDIA GPU found.""",
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running.\nnvidia-smi exited 9",
    source="https://github.com/NixOS/nixos-hardware/issues/1828 (a journal cut the line's `is`)",
)
NOT_STARTED = Recorded(
    "0000:98:00.0",
    "2204",
    """\
[  903.609564] NVRM: RmInitAdapter: Cannot initialize GSP firmware RM
[  903.610907] NVRM: GPU 0000:98:00.0: RmInitAdapter failed! (0x62:0x65:1792)
[  903.611884] NVRM: GPU 0000:98:00.0: rm_init_adapter failed, device minor number 0""",
    "No devices were found\nnvidia-smi exited 6",
    source="https://github.com/NVIDIA/open-gpu-kernel-modules/issues/789",
)
NOVA = Recorded(
    "0000:01:00.0",
    "2684",
    """\
[  201.910514] NVRM: GPU 0000:01:00.0 is already bound to NovaCore.
[  201.913648] NVRM: No NVIDIA devices probed.""",
    source="https://github.com/beclab/Olares/pull/3963",
)
UNSIGNED = Recorded(
    "0000:01:00.0",
    "2684",
    "[  398.381052] Lockdown: modprobe: unsigned module loading is restricted; "
    "see man kernel_lockdown.7",
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running.\nnvidia-smi exited 9",
    source="https://github.com/RinCat/RTL88x2BU-Linux-Driver/issues/114 (another unsigned module)",
)
REJECTED = Recorded(
    "0000:01:00.0",
    "2684",
    # kernel/module/signing.c: pr_notice("Loading of %s is rejected\n", reason)
    "[    5.100000] Loading of unsigned module is rejected",
    UNSIGNED.error,
    source="Linux 6.x, kernel/module/signing.c; the time is made up",
)
TAINTED = Recorded(
    "0000:01:00.0",
    "2684",
    """\
[    2.829492] nvidia: loading out-of-tree module taints kernel.
[    2.829501] nvidia: module license 'NVIDIA' taints kernel.
[    2.846803] nvidia: module verification failed: signature and/or required key missing - \
tainting kernel""",
    source="https://github.com/NVIDIA/k8s-device-plugin/issues/480 (where the driver then ran)",
)
LOST = Recorded(
    "0000:0b:00.0",
    "1e04",
    error="Unable to determine the device handle for GPU 0000:0B:00.0: Unknown Error\n"
    "nvidia-smi exited 9",
    source="https://github.com/NVIDIA/open-gpu-kernel-modules/issues/387; the status is made up",
)
LOST_TOLD = Recorded(
    "0000:02:00.0",
    "1e04",
    error="Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the "
    "system to recover this GPU\nnvidia-smi exited 15",
    source="https://github.com/JosephKJ/OWOD/issues/81; the status by nvidia-smi's manual page",
)
LOST_WITHOUT_A_SPACE = Recorded(
    "0000:65:00.0",
    "2235",
    error="Unable to determine the device handle for GPU0000:65:00.0: Unknown Error\n"
    "nvidia-smi exited 9",
    source="https://github.com/NVIDIA/nvidia-container-toolkit/issues/69; the status is made up",
)
MISMATCH = Recorded(
    "0000:01:00.0",
    "2684",
    error="Failed to initialize NVML: Driver/library version mismatch\n"
    "NVML library version: 550.144\nnvidia-smi exited 18",
    source="https://github.com/intel/llvm/issues/17614",
)
MIG_ROW = "00000000:01:00.0, Enabled"
"""``--query-gpu=pci.bus_id,mig.mode.current --format=csv`` on an H100, published in
https://github.com/scaleway/docs-content/pull/2077; cards without MIG say ``[N/A]`` and those with
it off ``Disabled`` (https://github.com/Syllo/nvtop/pull/470)."""
NOUVEAU_LSPCI = """\
{address} VGA compatible controller [0300]: NVIDIA Corporation GM204 [GeForce GTX 970] \
[10de:13c2] (rev a1)
\tSubsystem: eVga.com. Corp. Device 1972
\tKernel driver in use: nouveau
\tKernel modules: nouveau, nvidia_drm, nvidia"""
"""Of https://github.com/negativo17/nvidia-driver/issues/73, with the ids that ``-nn`` adds."""
