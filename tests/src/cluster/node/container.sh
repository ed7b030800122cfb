# HOME-OF-THE-NODE FOLDER USER:GROUP READ-ONLY WORKING-FOLDER PROGRAM...: in a mount namespace of its own, makes the files of a
# container (this machine's, under an overlay that takes what is written) and becomes its program.
set -eu
home=$1 folder=$2
disk=$folder/disk
mounted=$(cat /proc/self/mounts)
mount -t tmpfs -o mode=755 tmpfs "$disk"
mkdir "$disk/upper" "$disk/work" "$disk/root"
root=$disk/root
mount -t overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" overlay "$root"
# What is mounted in this machine's root is not in the overlay.
for tree in proc sys dev; do mount --rbind "/$tree" "$root/$tree"; done
echo "$mounted" | while read -r _ at _; do
  case $at in
  / | /proc | /proc/* | /sys | /sys/* | /dev | /dev/* | /run | /run/*) ;;
  *) [ ! -d "$root$at" ] || mount --bind "$at" "$root$at" ;;
  esac
done
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir "$root/run/node"
mount --bind "$home" "$root/run/node"
cp "$folder/mounts" "$root/run/mounts"
shift 2
exec chroot "$root" sh -euc '
  user=$1 readonly=$2 folder=$3
  shift 3
  while read -r mode source target; do
    case $source in /*) ;; *) source=/run/node/$source ;; esac
    if [ -d "$source" ]; then
      mkdir -p "$target"
    else
      mkdir -p "${target%/*}"
      # Its own file to mount over, also where the machine has a link.
      rm -f "$target"
      : >"$target"
    fi
    mount --bind "$source" "$target"
    [ "$mode" = rw ] || mount -o remount,bind,ro "$target"
  done </run/mounts
  rm /run/mounts
  umount --lazy /run/node
  rmdir /run/node
  [ "$readonly" = false ] || mount -o remount,ro /
  [ "$user" = 0:0 ] || set -- chroot --userspec="$user" --skip-chdir / "$@"
  cd "$folder"
  exec "$@"
' sh "$@"
