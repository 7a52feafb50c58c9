#!/bin/busybox sh
# First process of the virtual machine: makes the host's files its root, read-only below a layer in memory, and starts the
# program that the kernel's command line names as `agent=`, with the second serial line as its input and output.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
for module in MODULES_AT_START; do $B modprobe $module; done
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro,cache=loose root /host
$B mount -t tmpfs tmpfs /layer
$B mkdir /layer/upper /layer/work
$B mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /system
$B mkdir -p /system/lib/modules
$B cp -a /lib/modules/* /system/lib/modules/
for directory in proc sys dev; do $B mount --move /$directory /system/$directory; done
$B mkdir -p /system/dev/shm /system/dev/hugepages /system/dev/pts
for directory in run dev/shm; do $B mount -t tmpfs tmpfs /system/$directory; done
$B mount -t devpts devpts /system/dev/pts
$B mount -t hugetlbfs nodev /system/dev/hugepages
$B mount -t bpf bpf /system/sys/fs/bpf
for word in $($B cat /system/proc/cmdline); do
    case $word in agent=*) agent=${word#agent=} ;; esac
done
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
exec $B switch_root /system /bin/sh -c "
    ip link set dev lo up
    stty -F /dev/ttyS1 raw -echo
    exec '$agent' </dev/ttyS1 >/dev/ttyS1 2>/dev/console"
