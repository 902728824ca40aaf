#!/bin/busybox sh
# The guest's first process: makes a root of the host's root (read-only), what was unpacked for the guest, and a RAM disk
# on top; prepares the devices there; serves commands until the host has had enough; turns the machine off.

export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr

fail() {
    echo "farkeep-guest: $*" >/dev/console
    poweroff -f
}

while read -r module; do
    insmod "$module" || fail "cannot load $module"
done </modules/order

for tag in host image; do
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose $tag /$tag || fail "cannot mount the $tag's root"
done
mount -t tmpfs tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o "lowerdir=/image:/host,upperdir=/layer/upper,workdir=/layer/work" overlay /new ||
    fail "cannot lay the guest's root over the host's"
for name in proc sys dev; do
    mount --move /$name /new/$name
done
# A new /tmp, for much is different on an overlay (O_TMPFILE, what statfs says). A checkout below /tmp stays visible.
mount --bind /new/tmp /host_tmp
mount -t tmpfs -o mode=1777 tmpfs /new/tmp
. /settings
echo "$visible" | while read -r path; do
    case $path in
        /tmp/*)
            mkdir -p "/new$path"
            mount --bind "/host_tmp${path#/tmp}" "/new$path" || fail "cannot show $path"
            ;;
    esac
done
mount -t tmpfs -o mode=1777 tmpfs /new/run
mkdir -p /new/dev/shm /new/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /new/dev/shm
mount -t devpts devpts /new/dev/pts

cat /settings /prepare >/new/run/farkeep-guest
chroot /new /bin/bash /run/farkeep-guest || fail "the guest could not be prepared (see above)"
poweroff -f
