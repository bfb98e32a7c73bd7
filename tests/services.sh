# Starts temporary servers for the tests, each on a free port of 127.0.0.1, with its data below $SERVICES (a folder that the caller creates).
# Sourced by tests/run.sh and tests/matrix.sh. A server whose URL is already set is not started.
#
# With RETELL_ROOT, the programs are those of another system in that folder, which sees $SERVICES under the same path (see tests/roots.sh).

missing() {
  echo "$0: $1 is missing: $2" >&2
  exit 1
}

# Prints a free port. If another process takes the port first, the server fails to start and the run names it.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 40000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

# Runs a command as the user that a server's package created, or as the current user if that is not root.
as_user() {
  (become "$@")
}

# Like as_user, but replaces this shell, so that the pid of a background job is that of the program.
become() {
  local user="$1"
  shift
  if [ -n "${RETELL_ROOT:-}" ]; then exec chroot --userspec="$user:$user" "$RETELL_ROOT" env LANG=C.UTF-8 "$@"; fi
  if [ "$(id -u)" = 0 ]; then exec setpriv --reuid="$user" --regid="$user" --init-groups -- "$@"; else exec "$@"; fi
}

# Runs a client's program as the current user.
client() {
  if [ -n "${RETELL_ROOT:-}" ]; then chroot "$RETELL_ROOT" "$@"; else "$@"; fi
}

# Gives files to the user of a server, whose number another system may not share.
give_to() {
  if [ "$(id -u)" != 0 ]; then return; fi
  client chown -R "$1:$1" "$2"
}

# Arguments: package, what it provides, the variable that names a server of your own.
install_package() {
  [ -z "${RETELL_ROOT:-}" ] || missing "$2" "$1 is not installed in $RETELL_ROOT"
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    missing "$2" "on Debian or Ubuntu: apt-get install $1; or name one of your own in $3 (compose.yaml has servers)"
  fi
  echo "$0: installing $1" >&2
  # In a subshell, so that the trap removes the policy file even after a failure or a signal.
  (
    if [ ! -e /usr/sbin/policy-rc.d ]; then
      trap 'rm -f /usr/sbin/policy-rc.d' EXIT
      # The installed server must not start as a service: the tests start their own.
      printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d || exit 1
    fi
    apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1" >&2
  ) || missing "$2" "apt-get install $1 failed"
}

postgres_programs() {
  local programs
  local root="${RETELL_ROOT:-}"
  for programs in $(ls -d "$root"/usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) "$root$(pg_config --bindir 2>/dev/null)"; do
    if [ -x "$programs/initdb" ] && [ -x "$programs/postgres" ]; then
      echo "${programs#"$root"}"
      return
    fi
  done
}

start_postgres() {
  [ -z "${POSTGRES_URL:-}" ] || return 0
  local programs data port
  [ -n "$(postgres_programs)" ] || install_package postgresql "PostgreSQL 14 or later" POSTGRES_URL
  programs="$(postgres_programs)"
  data="$SERVICES/postgres"
  port="$(free_port)"
  mkdir -p "$data"
  give_to postgres "$data"
  as_user postgres "$programs/initdb" -D "$data/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$SERVICES/postgres.init" 2>&1 ||
    { cat "$SERVICES/postgres.init" >&2; missing PostgreSQL "initdb failed"; }
  as_user postgres "$programs/pg_ctl" -D "$data/data" -l "$data/log" -w -t 60 \
    -o "-c listen_addresses=127.0.0.1 -p $port -c unix_socket_directories=$data -c max_connections=300" start >/dev/null || {
    cat "$data/log" >&2
    # The server may still be starting.
    as_user postgres "$programs/pg_ctl" -D "$data/data" -m immediate stop >/dev/null 2>&1 || true
    missing PostgreSQL "the server did not start"
  }
  head -n 1 "$data/data/postmaster.pid" >"$SERVICES/postgres.pid"
  export POSTGRES_URL="postgres://postgres@127.0.0.1:$port/postgres"
}

mariadb_program() {
  if [ -n "${RETELL_ROOT:-}" ]; then client sh -c 'PATH="$PATH:/usr/sbin" command -v mariadbd'; return; fi
  command -v mariadbd || ls /usr/sbin/mariadbd 2>/dev/null
}

start_mariadb() {
  [ -z "${MYSQL_URL:-}" ] || return 0
  local data port pid
  [ -n "$(mariadb_program)" ] || install_package mariadb-server "MariaDB 10.11 or MySQL 8" MYSQL_URL
  data="$SERVICES/mariadb"
  port="$(free_port)"
  mkdir -p "$data/data" "$data/tmp"
  give_to mysql "$data"
  as_user mysql mariadb-install-db --no-defaults --datadir="$data/data" --auth-root-authentication-method=normal --skip-test-db \
    --skip-name-resolve >"$SERVICES/mariadb.init" 2>&1 || { cat "$SERVICES/mariadb.init" >&2; missing MariaDB "mariadb-install-db failed"; }
  as_user mysql "$(mariadb_program)" --no-defaults --datadir="$data/data" --tmpdir="$data/tmp" --socket="$data/socket" --pid-file="$data/pid" \
    --bind-address=127.0.0.1 --port="$port" --log-error="$data/log" --skip-name-resolve --skip-log-bin --max-connections=300 \
    --max-allowed-packet=64M --character-set-server=utf8mb4 </dev/null >/dev/null 2>&1 &
  pid=$!
  echo "$pid" >"$SERVICES/mariadb.pid"
  prepare_sql mariadb MariaDB "$data" "$pid" "$port"
  # The pid of the server. The pid above may be that of the shell that started it; killing that one would leave the server running.
  cat "$data/pid" >"$SERVICES/mariadb.pid"
}

# Waits until a server answers on its socket, and makes the user and the database of the tests.
prepare_sql() { # client, name, folder, pid, port
  local sql=(client "$1" --no-defaults --socket="$3/socket" -uroot -e)
  for _ in $(seq 600); do
    "${sql[@]}" 'select 1' >/dev/null 2>&1 && break
    kill -0 "$4" 2>/dev/null || { cat "$3/log" >&2; missing "$2" "the server did not start"; }
    sleep 0.1
  done
  "${sql[@]}" "create database retell; create user retell@'127.0.0.1' identified by 'retell'; grant all on *.* to retell@'127.0.0.1' with grant option"
  export MYSQL_URL="mysql://retell:retell@127.0.0.1:$5/retell"
}

# MySQL is not a package of every Debian, so only tests/matrix.sh starts it, from a root.
start_mysql() {
  [ -z "${MYSQL_URL:-}" ] || return 0
  local data port pid
  data="$SERVICES/mysql"
  port="$(free_port)"
  mkdir -p "$data"
  give_to mysql "$data"
  as_user mysql mysqld --no-defaults --initialize-insecure --datadir="$data/data" >"$SERVICES/mysql.init" 2>&1 ||
    { cat "$SERVICES/mysql.init" >&2; missing MySQL "mysqld --initialize-insecure failed"; }
  # The X protocol would take a port of its own. The rest is the default: a binary log, and commits that wait for the disk.
  become mysql mysqld --no-defaults --datadir="$data/data" --socket="$data/socket" --pid-file="$data/pid" --bind-address=127.0.0.1 \
    --port="$port" --log-error="$data/log" --skip-name-resolve --mysqlx=OFF --max-connections=300 </dev/null >/dev/null 2>&1 &
  pid=$!
  echo "$pid" >"$SERVICES/mysql.pid"
  prepare_sql mysql MySQL "$data" "$pid" "$port"
}

rabbitmq_programs() {
  local root="${RETELL_ROOT:-}" programs
  programs="$(ls -d "$root"/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin 2>/dev/null | sort -V | tail -n 1)"
  echo "${programs#"$root"}"
}

start_rabbitmq() {
  [ -z "${AMQP_URL:-}" ] || return 0
  local data port names pid
  [ -n "$(rabbitmq_programs)" ] || install_package rabbitmq-server "RabbitMQ 3.10 or later" AMQP_URL
  data="$SERVICES/rabbitmq"
  port="$(free_port)"
  names="$(free_port)"
  mkdir -p "$data"
  give_to rabbitmq "$data"
  # Erlang's name server. Otherwise the broker starts one that keeps running after the tests.
  become rabbitmq epmd -port "$names" -address 127.0.0.1 </dev/null >/dev/null 2>&1 &
  # The name of this file sorts last, so it is stopped last. A broker that does not find the name server starts another one.
  echo "$!" >"$SERVICES/z_epmd.pid"
  HOME="$data" RABBITMQ_NODENAME="retell$port@localhost" RABBITMQ_NODE_PORT="$port" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
    RABBITMQ_DIST_PORT="$(free_port)" ERL_EPMD_PORT="$names" ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_MNESIA_BASE="$data/data" \
    RABBITMQ_PID_FILE="$data/pid" RABBITMQ_LOG_BASE="$data/log" RABBITMQ_ENABLED_PLUGINS_FILE="$data/plugins" \
    RABBITMQ_CONFIG_FILE="$data/none" RABBITMQ_CONF_ENV_FILE="$data/none" RABBITMQ_ADVANCED_CONFIG_FILE="$data/none" \
    become rabbitmq "$(rabbitmq_programs)/rabbitmq-server" </dev/null >"$SERVICES/rabbitmq.log" 2>&1 &
  pid=$!
  for _ in $(seq 1200); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    kill -0 "$pid" 2>/dev/null || { cat "$SERVICES/rabbitmq.log" >&2; missing RabbitMQ "the server did not start"; }
    sleep 0.1
  done
  # The pid of Erlang. The pid above is that of the wrapper script.
  cp "$data/pid" "$SERVICES/rabbitmq.pid"
  export AMQP_URL="amqp://guest:guest@127.0.0.1:$port/%2f"
}

# Finds the program and the library that give a process a clock of its own. Some systems have only the library.
find_faketime() {
  { command -v faketime && ls /usr/lib/*/faketime/libfaketimeMT.so.1; } >/dev/null 2>&1 ||
    install_package faketime "faketime" "nothing: it is found in PATH, and its library in /usr/lib/*/faketime"
}

# Creates a virtual environment below $SERVICES with pika, the client that the consumer in Python uses.
make_python() {
  [ -z "${PIKA_PYTHON:-}" ] || return 0
  python3 -c 'import venv, ensurepip' 2>/dev/null || install_package python3-venv "Python 3 with venv" PIKA_PYTHON
  { python3 -m venv "$SERVICES/python" && "$SERVICES/python/bin/pip" install --quiet --disable-pip-version-check pika==1.3.2; } >&2 ||
    missing "pika, RabbitMQ's client for Python" "name a Python that has it in PIKA_PYTHON"
  export PIKA_PYTHON="$SERVICES/python/bin/python"
}

# Finds PgBouncer 1.21 or later, or builds it from the sources of a later Debian: older ones lose prepared statements.
make_pgbouncer() {
  [ -z "${PGBOUNCER:-}" ] || return 0
  local version from apt
  version="$(pgbouncer --version 2>/dev/null | sed -n 's/^PgBouncer 1\.\([0-9]*\).*/\1/p' || true)"
  if [ "${version:-0}" -ge 21 ]; then
    PGBOUNCER="$(command -v pgbouncer)"
    export PGBOUNCER
    return
  fi
  local package
  for package in make gcc pkg-config libevent-dev libssl-dev; do
    dpkg -s "$package" >/dev/null 2>&1 || install_package "$package" "$package, to build PgBouncer" PGBOUNCER
  done
  from="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -m 1 -E '/debian/?$' || true)"
  [ -n "$from" ] || missing "PgBouncer 1.21 or later" "name one of your own in PGBOUNCER"
  mkdir -p "$SERVICES/pgbouncer/lists/partial" "$SERVICES/pgbouncer/cache/archives/partial"
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from trixie main" >"$SERVICES/pgbouncer/sources"
  apt=(apt-get -qq -o "Dir::Etc::sourcelist=$SERVICES/pgbouncer/sources" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$SERVICES/pgbouncer/lists" -o "Dir::Cache=$SERVICES/pgbouncer/cache" -o APT::Sandbox::User=root)
  (
    cd "$SERVICES/pgbouncer" && "${apt[@]}" update && "${apt[@]}" source --download-only pgbouncer &&
      tar xf pgbouncer_*.orig.tar.gz --strip-components=1 && ./configure --without-cares && make -j2 pgbouncer
  ) >"$SERVICES/pgbouncer.log" 2>&1 || { tail -n 20 "$SERVICES/pgbouncer.log" >&2; missing "PgBouncer 1.21 or later" "its build failed; name one of your own in PGBOUNCER"; }
  export PGBOUNCER="$SERVICES/pgbouncer/pgbouncer"
}

# Succeeds if the process has ended. A zombie counts as ended. Without ps, the state is read from /proc.
has_ended() {
  kill -0 "$1" 2>/dev/null || return 0
  case "$(ps -o stat= -p "$1" 2>/dev/null || sed 's/.*) //' "/proc/$1/stat" 2>/dev/null || true)" in Z*) return 0 ;; esac
  return 1
}

# Stops the servers that were started here, by pid, and waits for each. A server that does not end within 10 seconds is killed.
stop_services() {
  local file pid
  for file in "$SERVICES"/*.pid; do
    [ -s "$file" ] || continue
    pid="$(cat "$file")"
    # SIGINT is PostgreSQL's fast shutdown. The others take SIGTERM.
    case "$file" in *postgres*) kill -INT "$pid" ;; *) kill -TERM "$pid" ;; esac 2>/dev/null || continue
    for _ in $(seq 100); do
      if has_ended "$pid"; then continue 2; fi
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
  done
}
