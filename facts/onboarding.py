"""A box before it is in the fleet: all that one remote command can tell, with or without root.

Nothing is changed on the box and nothing is needed there but a POSIX shell: each tool that is
missing leaves its own answer out. Where the login may use sudo without a password, the same script
runs with root's rights, because the kernel's log, sshd's settings and other users' model caches
are root's to read. The values are :mod:`facts.onboarding_values`; what follows from them is
:mod:`llamaherd.onboard.diagnosis`.

Upstream behaviour relied on: sysfs and procfs as the kernel documents them
(``Documentation/ABI/testing/sysfs-bus-pci``); ``/proc/driver/nvidia/version`` and the words of
``nvidia-smi`` (NVIDIA's driver README); a device that left the bus reads as all ones, which lspci
shows as ``rev ff``.
"""

from __future__ import annotations

import shlex

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.cuda import CudaToolkits
from facts.found_models import FOUND_SCRIPT
from facts.onboarding_parse import parse_probe
from facts.onboarding_values import Probe
from facts.sections import SECTION
from facts.system import PATHS, System

# Runs what follows as root where that needs no password, else as the login.
_WRAPPER = """
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/local/cuda/bin
LC_ALL=C; export PATH LC_ALL
login=$(id -un); groups=$(id -Gn); sudo=none; as=
if [ "$(id -u)" = 0 ]; then sudo=root
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
  sudo=passwordless; as="sudo -n"
fi
exec $as env PATH="$PATH" LC_ALL=C sh -c "$1" look "$login" "$sudo" "$groups"
"""

_MACHINE = f"""
echo {SECTION}access; echo "$1"; echo "$2"; echo "$3"
echo {SECTION}sshd
sshd -T 2>/dev/null | grep -E '^(permitrootlogin|passwordauthentication) '
echo {SECTION}box
echo "hostname=$(hostname 2>/dev/null || cat "$proc/sys/kernel/hostname")"
echo "kernel=$(uname -r)"
echo "vendor=$(cat "$sys/class/dmi/id/sys_vendor" 2>/dev/null)"
echo "model=$(cat "$sys/class/dmi/id/product_name" 2>/dev/null)"
echo "tree=$(tr -d '\\0' 2>/dev/null < "$proc/device-tree/model")"
echo "virtualization=$(systemd-detect-virt 2>/dev/null)"
echo "musl=$(ldd --version 2>&1 | grep -i musl | head -n 1)"
echo "compiler=$(cc -dumpfullversion -dumpversion 2>/dev/null)"
echo "compiler_name=$(cc --version 2>/dev/null | head -n 1)"
for variable in "$sys"/firmware/efi/efivars/SecureBoot-*; do
  [ -e "$variable" ] && echo "secure_boot=$(od -An -tu1 -j4 -N1 "$variable" 2>/dev/null)"
done
[ -e /run/reboot-required ] && echo "reboot=$(sort -u /run/reboot-required.pkgs 2>/dev/null |
  tr '\\n' ' ')" && echo reboot_asked=yes
[ -d /lib/modules ] && [ ! -d "/lib/modules/$(uname -r)" ] &&
  echo "modules=$(ls /lib/modules | tr '\\n' ' ')"
timedatectl show -p NTPSynchronized -p Timezone 2>/dev/null
"""

_STORAGE = f"""
echo {SECTION}disks
lsblk -dbnP -e 7,11 -o NAME,SIZE,ROTA,TRAN,TYPE,MODEL 2>/dev/null
for path in {" ".join(PATHS)}; do
  at=$path; while [ ! -e "$at" ]; do at=$(dirname "$at"); done
  echo {SECTION}space:$path; df -PTB1 "$at" 2>/dev/null | tail -n 1
  device=$(df -P "$at" 2>/dev/null | tail -n 1 | cut -d ' ' -f 1)
  case $device in /dev/*) lsblk -nsP -o NAME,ROTA,TRAN "$device" 2>/dev/null ;; esac
done
"""

_PCI = f"""
echo {SECTION}pci
for device in "$sys"/bus/pci/devices/*; do
  [ "$(cat "$device/vendor" 2>/dev/null)" = 0x10de ] || continue
  case $(cat "$device/class") in 0x03*) ;; *) continue ;; esac
  driver=$(readlink "$device/driver" 2>/dev/null)
  alive=$(od -An -tx1 -N2 "$device/config" 2>/dev/null | tr -d ' ')
  echo "${{device##*/}} $(cat "$device/device") ${{driver##*/}}- ${{alive:-unread}}"
done
echo {SECTION}lspci; lspci -Dnnk -d 10de: 2>/dev/null
"""

_DRIVER = f"""
echo {SECTION}module; cat "$proc/driver/nvidia/version" 2>/dev/null
echo {SECTION}modinfo; modinfo -F version nvidia 2>/dev/null | head -n 1
modinfo -F license nvidia 2>/dev/null | head -n 1
echo {SECTION}nouveau; [ -d "$sys/module/nouveau" ] && echo loaded
if command -v nvidia-smi >/dev/null 2>&1; then
  # Both only where the first one answers: a hanging driver must not cost three time limits.
  cards=$(timeout 20 nvidia-smi --format=csv,noheader,nounits \
    --query-gpu=uuid,pci.bus_id,mig.mode.current,memory.used 2>&1) && {{
    echo {SECTION}cards; echo "$cards"
    echo {SECTION}smi
    timeout 20 nvidia-smi 2>/dev/null |
      grep -oE '(Driver|CUDA|CUDA UMD) Version: *[0-9.]+' | sort -u
  }}
fi
echo {SECTION}kernel
refused='Loading of .* is rejected|unsigned module loading is restricted'
dmesg 2>/dev/null | grep -E "NVRM|$refused" | grep -v 'loading NVIDIA' | tail -n 200
"""

# What runs, wherever it lies: by the name of the program, or of what Python was given to run.
_RUNNING = r"""
names='llama-server|ollama|vllm|lms|llmster|LM-Studio[^/]*|koboldcpp[^/]*|tritonserver'
names="^([^ ]*/)?($names|text-generation-launcher|local-ai|(vllm|sglang)[.][a-z_.]+)$"
words() { tr '\0' '\n' < "$1" 2>/dev/null | head -n "$2"; }
grep -alzE "$names" "$proc"/[0-9]*/cmdline 2>/dev/null | while read -r line; do
  pid=${line%/cmdline}; pid=${pid##*/}
  case $(words "$line" 1) in */python*|python*) count=3 ;; *) count=1 ;; esac
  word=$(words "$line" "$count" | grep -m 1 -E "$names") || continue
  unit=$(sed -n 's|.*/\([^/]*\.service\).*|\1|p' "$proc/$pid/cgroup" 2>/dev/null | head -n 1)
  case $unit in llama-server@*) continue ;; user@*) unit= ;; esac
  echo "process|$(readlink "$proc/$pid/exe" 2>/dev/null)|$word|$unit|active"
done
"""

_SOFTWARE = f"""
show() {{ # kind, path, version, unit
  active=; [ -z "$4" ] || active=$(systemctl is-active "$4" 2>/dev/null)
  echo "$1|$2|$3|$4|$active"
}}
echo {SECTION}programs
for program in ollama llama-server vllm lms; do
  path=$(command -v "$program" 2>/dev/null) || continue
  version=$(timeout 5 "$program" --version 2>&1 </dev/null | grep -i version | tail -n 1)
  unit=; [ -z "$(systemctl cat "$program.service" 2>/dev/null)" ] || unit=$program.service
  show "$program" "$path" "$version" "$unit"
done
{_RUNNING}for engine in docker podman; do
  command -v "$engine" >/dev/null 2>&1 || continue
  timeout 5 "$engine" ps --format '{{{{.Image}}}}|{{{{.Names}}}}' 2>/dev/null |
    grep -E 'ollama|vllm|llama|sglang|text-generation|localai|tritonserver' |
    while IFS='|' read -r image name; do echo "container|$name|$image||active"; done
done
{FOUND_SCRIPT}
echo {SECTION}onboarded
for unit in /etc/systemd/system/llama-server@*.service; do
  grep -q '^# Managed by llamaherd' "$unit" 2>/dev/null && echo "server ${{unit##*/}}"
done
for build in /opt/llama.cpp/*; do
  [ -f "$build/manifest.json" ] && echo "build ${{build##*/}}"
done
"""

_CUDA = CudaToolkits().command()


class Onboarding(FactBase[Probe]):
    """All that one look at a box tells; see :class:`facts.onboarding_values.Probe`.

    .. code:: shell

        pyinfra HOST fact facts.onboarding.Onboarding
    """

    def command(self, sys: str = "/sys", proc: str = "/proc") -> str:
        """One script.

        + sys, proc: roots of sysfs and procfs, for boxes that are stand-ins
        """
        roots = f"sys={shlex.quote(sys)}; proc={shlex.quote(proc)}; cd /"
        parts = (_MACHINE, _STORAGE, _PCI, _DRIVER, _SOFTWARE)
        script = "\n".join([roots, *parts, System().command(), _CUDA, "true"])
        return f"sh -c {shlex.quote(_WRAPPER)} look {shlex.quote(script)}"

    @staticmethod
    def default() -> Probe:
        """A box that says nothing."""
        return Probe()

    def process(self, output: list[str]) -> Probe:
        """See :func:`parse_probe`."""
        return parse_probe(output)


class Now(FactBase[float]):
    """The box's clock, in seconds since the epoch."""

    def command(self) -> str:
        """One word; without GNU's nanoseconds, whole seconds."""
        return "date +%s.%N | tr -d N"

    def process(self, output: list[str]) -> float:
        """FactProcessError for anything but a number."""
        try:
            return float(output[-1].rstrip("."))
        except (IndexError, ValueError) as error:
            raise FactProcessError(f"the box's clock says {output!r}, which is no time") from error
