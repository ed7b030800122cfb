# HOME-OF-THE-NODE FOLDER USER:GROUP READ-ONLY WORKING-FOLDER PROGRAM...: in a mount namespace of its own, makes the files of a
# container (this machine's, under overlays that take what is written) and becomes its program.
set -eu
home=$1 folder=$2
disk=$folder/disk
mounted=$(cat /proc/self/mounts)
mount -t tmpfs -o mode=755 tmpfs "$disk"
root=$disk/root
mkdir "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"
for entry in /*; do
  name=${entry#/}
  case $name in
  proc | sys | dev) mkdir "$root/$name" && mount --rbind "$entry" "$root/$name" ;;
  run) mkdir "$root/run" && mount -t tmpfs -o mode=755 tmpfs "$root/run" ;;
  *)
    if [ -L "$entry" ]; then
      cp -P "$entry" "$root/"
    elif [ -d "$entry" ]; then
      # Each for itself: whoever is root in a user namespace only may not look below the mounts of the real root.
      mkdir -p "$root/$name" "$disk/upper/$name" "$disk/work/$name"
      mount -t overlay -o "userxattr,lowerdir=$entry,upperdir=$disk/upper/$name,workdir=$disk/work/$name" overlay \
        "$root/$name" 2>/dev/null || mount --rbind "$entry" "$root/$name"
      # The owner of /etc is not in a user namespace. It is small, and volumes are often mounted there.
      if [ "$name" = etc ] && [ ! -w "$root/etc" ]; then
        umount "$root/etc" && cp -R /etc/. "$root/etc" 2>/dev/null || true
      fi
    fi
    ;;
  esac
done
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
# What is mounted somewhere below is not in an overlay.
echo "$mounted" | while read -r _ at _; do
  case $at in
  / | /proc | /proc/* | /sys | /sys/* | /dev | /dev/* | /run | /run/*) ;;
  *) [ ! -d "$root$at" ] || mount --bind "$at" "$root$at" 2>/dev/null || true ;;
  esac
done
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
      [ ! -L "$target" ] || rm "$target"
      [ -e "$target" ] || : >"$target"
    fi
    mount --bind "$source" "$target"
    [ "$mode" = rw ] || mount -o remount,bind,ro "$target"
  done </run/mounts
  rm /run/mounts
  umount --lazy /run/node
  rmdir /run/node
  [ "$readonly" = false ] || for tree in / $(awk "\$3 == \"overlay\" {print \$2}" /proc/self/mounts); do
    mount -o remount,bind,ro "$tree"
  done
  # In a user namespace there may be nobody else.
  [ "$user" = 0:0 ] || grep -q " 1$" /proc/self/uid_map || set -- chroot --userspec="$user" --skip-chdir / "$@"
  cd "$folder"
  exec "$@"
' sh "$@"
