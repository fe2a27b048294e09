# Functions of the field's agent framework that entry points in shell source
# from ${VCS_HOME}/bin/ag_i18n_inc.sh. What they say goes to standard error,
# which Holdfast keeps: docs/agents.md.

VCSAG_SUCCESS=0
VCSAG_FAILURE=1
VCSAG_EP_DONE=0
VCSAG_RES_UNKNOWN=99
VCSAG_RES_OFFLINE=100
VCSAG_RES_ONLINE=110
VCSAG_RES_INTENTIONALOFFLINE=200

# VCSAG_SET_ENVS RESOURCE [CATEGORY [ENTRY_POINT]]
VCSAG_SET_ENVS() {
	VCSAG_LOG_RESOURCE_NAME=${1-}
	VCSAG_LOG_CATEGORY=${2-}
	VCSAG_LOG_SCRIPT_NAME=${3-${HOLDFAST_ENTRY_POINT-}}
	export VCSAG_LOG_RESOURCE_NAME VCSAG_LOG_CATEGORY VCSAG_LOG_SCRIPT_NAME
}

# VCSAG_LOG_MSG SEVERITY MESSAGE ID [...]
VCSAG_LOG_MSG() {
	case $1 in
	C) printf 'critical: %s\n' "$2" ;;
	E) printf 'error: %s\n' "$2" ;;
	W) printf 'warning: %s\n' "$2" ;;
	*) printf '%s\n' "$2" ;;
	esac >&2
}

VCSAG_RES_LOG_MSG() { VCSAG_LOG_MSG "$@"; }
VCSAG_CONSOLE_LOG_MSG() { VCSAG_LOG_MSG "$@"; }

# VCSAG_LOGDBG_MSG LEVEL MESSAGE [...]: said nowhere, as in the field unless debugging is on.
VCSAG_LOGDBG_MSG() { :; }

# VCSAG_GET_ATTR_VALUE NAME INDEX NUMBER ARGUMENTS...: the value with that number, from 1, of the attribute with
# that name (INDEX -1) or at that place among the attributes, from 0. ARGUMENTS are name, count, values …
VCSAG_GET_ATTR_VALUE() {
	_vcsag_name=$1 _vcsag_index=$2 _vcsag_number=$3 _vcsag_at=0
	shift 3
	VCSAG_ATTR_VALUE=
	while [ $# -ge 2 ]; do
		case $2 in '' | *[!0-9]*) return $VCSAG_FAILURE ;; esac
		if [ "$_vcsag_index" = "$_vcsag_at" ] || { [ "$_vcsag_index" = -1 ] && [ "$1" = "$_vcsag_name" ]; }; then
			[ "$_vcsag_number" -ge 1 ] && [ "$_vcsag_number" -le "$2" ] || return $VCSAG_FAILURE
			shift $((_vcsag_number + 1))
			VCSAG_ATTR_VALUE=$1
			return $VCSAG_SUCCESS
		fi
		[ $# -ge $(($2 + 2)) ] || return $VCSAG_FAILURE
		shift $(($2 + 2))
		_vcsag_at=$((_vcsag_at + 1))
	done
	return $VCSAG_FAILURE
}

# VCSAG_GET_MONITOR_LEVEL: VCSAG_MONITOR_LEVEL_ONE and _TWO are in the environment already.
VCSAG_GET_MONITOR_LEVEL() { return $VCSAG_SUCCESS; }

# VCSAG_SQUEEZE_SPACES TEXT
VCSAG_SQUEEZE_SPACES() {
	set -f
	set -- $1
	set +f
	VCSAG_SQUEEZE_SPACES=$*
}
