# Roots of other Debian releases, whose servers tests/matrix.sh runs. Sourced by it. Needs the rights of root.
#
# RETELL_MIRROR       the Debian archive to install from, by default the one that apt uses on this machine
# RETELL_APT_OPTIONS  more options of apt within the root, such as "-o Acquire::Check-Valid-Until=false" if the archive is a frozen copy

# Makes the root of a release, with these packages, unless it is complete.
make_root() { # folder, release, packages
  local root="$1" release="$2" mirror
  shift 2
  if [ -e "$root/.complete" ]; then return; fi
  # This machine makes the root.
  command -v debootstrap >/dev/null || RETELL_ROOT= install_package debootstrap debootstrap nothing
  mirror="${RETELL_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)}"
  [ -n "$mirror" ] || missing "the Debian archive" "name it in RETELL_MIRROR, or run apt-get update"
  mkdir -p "$root"
  if [ ! -x "$root/usr/bin/apt-get" ]; then debootstrap --variant=minbase "$release" "$root" "$mirror" >&2; fi
  # The installed servers must not start as services.
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod +x "$root/usr/sbin/policy-rc.d"
  mount_system "$root"
  # shellcheck disable=SC2086 # options are a list of words
  env DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 chroot "$root" sh -c \
    'options="$1" && shift && apt-get $options update -qq && apt-get $options install -y -qq --no-install-recommends "$@"' \
    sh "${RETELL_APT_OPTIONS:-}" "$@" >&2 || missing "$*" "apt-get failed in $root"
  touch "$root/.complete"
}

# Erlang and PostgreSQL need /proc and /dev/shm.
mount_system() {
  mountpoint -q "$1/proc" || mount -t proc proc "$1/proc"
  mountpoint -q "$1/dev/shm" || mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
}

# Shows a folder of this machine in the root, under the same path, with everything that is mounted in it later.
show_in_root() { # root, folder
  mountpoint -q "$2" || { mount --bind "$2" "$2" && mount --make-shared "$2"; }
  mkdir -p "$1$2"
  mount --bind "$2" "$1$2"
}

# Kills what still runs in the root, such as the servers of a test that did not end.
end_processes() { # root
  local root="$1" process
  for process in /proc/[0-9]*; do
    if [ "$(readlink "$process/root" 2>/dev/null)" = "$root" ]; then kill -KILL "${process#/proc/}" 2>/dev/null || true; fi
  done
}

# Takes away every mount in the root. Look for `mount | grep ROOT` before you delete a root by hand.
leave_root() { # root, folder that was shown
  local path
  end_processes "$1"
  for path in "$1$2" "$1/dev/shm" "$1/proc"; do
    if mountpoint -q "$path"; then umount -R "$path" || umount -l "$path"; fi
  done
}
