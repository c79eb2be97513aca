#!/bin/sh
# Become a node: runs in its own namespaces, ends as the node's slurmd.
#   node.sh NODE HOSTS_FILE [ADDRESS LINK BRIDGE]
set -e
hostname "$1"
mount --bind "$2" /etc/hosts
# Open MPI names its shared memory by host, user and job number: ranks of two sandboxes' job 1 would write to each other.
mount -t tmpfs tmpfs /dev/shm
if [ $# -gt 2 ]; then
    # The cable is plugged in from here because it needs both ends: $PPID still lives in the machine's network. A named
    # namespace would be simpler, but outlives a crash and leaves a mount on /run/netns.
    machine="nsenter --net=/proc/$PPID/ns/net ip link"
    $machine add "$4" type veth peer name eth0 netns $$
    $machine set "$4" master "$5" up
    ip address add "$3/24" dev eth0
    ip link set eth0 up
    ip link set lo up
fi
exec slurmd -N "$1"
