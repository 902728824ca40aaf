# Runs in the guest's root, behind the settings of this boot: brings up the network, rxe and the
# persistent memory, and becomes the agent. NVDIMMs are formatted only if the host says that they are blank.
# Settings: address, peer, host_name, agent, devdax_count, format (yes or no).
set -euo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8

echo "$host_name" >/proc/sys/kernel/hostname
ip link set lo up
ip addr add "$address/24" dev eth0
ip link set eth0 up
rdma link add rxe0 type rxe netdev eth0

ulimit -l unlimited

# NVDIMMs in the order in which QEMU was given them is the order of their addresses; the numbers of the kernel's regions
# have nothing to do with it. They are looked for in the background; reading wait_probe waits for that.
cat /sys/bus/nd/devices/ndbus0/wait_probe >/dev/null
regions=()
while read -r _ number; do
    regions+=("$number")
done < <(for region in /sys/bus/nd/devices/region*; do
    echo "$(cat "$region/resource") ${region##*/region}"
done | sort)
fsdax=${regions[devdax_count]}

make_namespace() {
    ndctl create-namespace -f -e "namespace$1.0" "${@:2}" >/run/ndctl.log 2>&1 || { cat /run/ndctl.log; exit 1; }
}

if [ "$format" = yes ]; then
    for number in "${regions[@]:0:devdax_count}"; do
        # 4K: the alignment a log may have.
        make_namespace "$number" -m devdax -a 4K
    done
    make_namespace "$fsdax" -m fsdax
    # mkfs's default of 1 KiB blocks on a small device would make `-o dax` fail.
    mkfs.ext4 -q -F -b 4096 "/dev/pmem$fsdax"
fi
for number in "${regions[@]:0:devdax_count}"; do
    [ -c "/dev/dax$number.0" ] || { echo "no /dev/dax$number.0"; exit 1; }
done
mkdir -p /mnt/fsdax
mount -o dax "/dev/pmem$fsdax" /mnt/fsdax

export FARKEEP_GUEST=1
export FARKEEP_GUEST_DEVDAX=/dev/dax${regions[0]}.0
export FARKEEP_GUEST_DEVDAX2=/dev/dax${regions[1]}.0
export FARKEEP_GUEST_FSDAX=/mnt/fsdax
export FARKEEP_GUEST_ADDRESS=$address
export FARKEEP_GUEST_PEER=$peer
export FARKEEP_GUEST_RDMA=rxe0
for port in /dev/vport*; do
    exec "$agent" guest-agent "$port"
done
