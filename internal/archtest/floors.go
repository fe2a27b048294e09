// Package archtest holds the rules of the source tree as tables, each row with
// its reason. Its tests fail when the tree breaks one:
//
//	A1  a package imports only packages of lower floors, or of its own row (floors)
//	A2  a protocol core gets bytes, time and chance as arguments (cores, forbiddenImports, forbiddenCalls)
//	A3  every package says in a package comment what it is for
//	A4  Go files are formatted and short enough to be held in mind
//	A5  no text names one machine's paths or is marked unfinished
//	A6  links between documents resolve, and so do documents named in comments
//
// A new package gets a row in floors before it compiles here: where it stands
// is a decision, not an accident.
package archtest

// module is the prefix of all import paths below.
const module = "github.com/holdfast-ha/holdfast/"

// maxLines is the length of a Go file that one can hold in mind.
const maxLines = 700

// A floor is a set of packages that may see those of the floors below, and
// each other only where the row says so.
type floor struct {
	packages []string
	why      string
	// Packages of this floor may import each other.
	inside bool
}

// floors, lowest first. A name ending in "/..." stands for the tree below it,
// which counts as one package; the most exact name wins.
var floors = []floor{
	{packages: []string{"api/holdfast/v1", "internal/wire", "internal/boltfile", "internal/protoyaml", "internal/protogen", "internal/archtest", "internal/testrun"},
		why: "vocabulary, framing and tools of the repository know nothing of clusters"},
	{packages: []string{"internal/schema"},
		why: "what a field may hold follows from the schema alone"},
	{packages: []string{"internal/schema/attributes"},
		why: "the reference page is written from the schema"},
	{packages: []string{"internal/notify/eventcode", "internal/notify/deliver"},
		why: "what events mean, and how one is told, needs no cluster"},
	{packages: []string{"internal/cluster/timers", "internal/cluster/link"},
		why: "what the timers and addresses of a cluster are follows from its configuration alone"},
	{packages: []string{"internal/cluster/witness/witnesspb"},
		why: "what coordination points are asked is described without clusters"},
	{packages: []string{"internal/cluster/witness"},
		why: "the register and its points know raft's messages and nothing of views"},
	{packages: []string{"internal/cluster/lockdisk/lockdiskpb"},
		why: "what stands on a lock disk has the same parts as what an arbiter keeps"},
	{packages: []string{"internal/cluster/lockdisk"},
		why: "a lock disk is one kind of point"},
	{packages: []string{"internal/cluster/lockdisk/device"},
		why: "the core decides, here is the disk"},
	{packages: []string{"internal/cluster/fence"},
		why: "fencing acts on what it is told: devices, programs, watchdogs"},
	{packages: []string{"internal/cluster/state/statepb"},
		why: "what is replicated is described in objects only"},
	{packages: []string{"internal/cluster/guard/guardpb", "internal/cluster/peer/peerpb"},
		why: "frames between processes carry parts of the replicated state"},
	{packages: []string{"internal/cluster/guard", "internal/cluster/state"},
		why: "the lease must not depend on how decisions are made, nor applying on who leads"},
	{packages: []string{"internal/cluster/view"},
		why: "who may be evicted is judged from statements and state"},
	{packages: []string{"internal/cluster/consensus"},
		why: "raft replicates what the floors below define"},
	{packages: []string{"internal/cluster/logstore"},
		why: "the disk under raft knows nothing of who uses it"},
	{packages: []string{"internal/cluster/identity"},
		why: "a node's identity comes with the log that it begins with"},
	{packages: []string{"internal/cluster/peer"},
		why: "connections between nodes rest on who they are"},
	{packages: []string{"internal/arbiter", "internal/arbiter/..."},
		why: "the arbiter serves points to clusters that it knows by their certificates only", inside: true},
	{packages: []string{"internal/notify"},
		why: "who is told of what follows from the replicated events"},
	{packages: []string{"internal/group/planner", "internal/group/agent"},
		why: "deciding and doing know the state, and not each other"},
	{packages: []string{"internal/group/packages"},
		why: "packages are groups that somebody else wrote down otherwise"},
	{packages: []string{"internal/group/agents", "internal/config"},
		why: "bundled agents and configuration files describe what planner and runtime use"},
	{packages: []string{"internal/setup", "internal/setup/..."},
		why: "a response file is judged as a configuration is, with tokens, before anything is done", inside: true},
	{packages: []string{"internal/node/engine"},
		why: "the engine joins the cores; it is a core itself"},
	{packages: []string{"internal/api"},
		why: "the API is a view of the engine"},
	{packages: []string{"internal/api/apifake"},
		why: "a node in memory, for tests of what speaks to the API"},
	{packages: []string{"internal/node/points"},
		why: "coordination points are used by the daemon, and asked by commands that run without one"},
	{packages: []string{"internal/node/..."},
		why: "daemons wire cores to the machine"},
	{packages: []string{"internal/cli"},
		why: "the CLI speaks to the API and to nothing else"},
	{packages: []string{"internal/arbiter/arbitercmd"},
		why: "the arbiter's commands end as those of the CLI do, and speak to an arbiter only"},
	{packages: []string{"internal/lockdiskcmd"},
		why: "commands on disks end as those of the CLI do, and speak to nobody"},
	{packages: []string{"internal/lab", "internal/lab/..."},
		why: "labs run the daemons and the CLI as they are", inside: true},
	{packages: []string{"internal/sim", "internal/sim/..."},
		why: "the simulator runs every core; nothing runs the simulator", inside: true},
	{packages: []string{"internal/vmtest", "internal/vmtest/..."},
		why: "virtual machines run the tests of other packages as they are"},
	{packages: []string{"cmd/holdfast"},
		why: "the one binary holds everything"},
}

// cores are the deterministic packages. The simulator itself is one: a seed
// decides everything that it does.
var cores = []string{
	"internal/cluster/guard",
	"internal/cluster/state",
	"internal/cluster/view",
	"internal/cluster/consensus",
	"internal/cluster/witness",
	"internal/cluster/lockdisk",
	"internal/notify",
	"internal/group/planner",
	"internal/group/agent",
	"internal/node/engine",
	"internal/sim",
}

// forbiddenImports of cores, trees included.
var forbiddenImports = map[string]string{
	"net":                "a core gets bytes, not sockets",
	"os":                 "a core gets facts, not files; its caller decides what a process may touch",
	"syscall":            "a core runs on no machine in particular",
	"golang.org/x/sys":   "a core runs on no machine in particular",
	"crypto/rand":        "chance is an argument, or a failure cannot be replayed",
	"time/tzdata":        "time is a duration since some start",
	"log":                "what a core has to say is part of what it returns",
	"log/slog":           "what a core has to say is part of what it returns",
	"runtime":            "a core does not know what runs it",
	"go.etcd.io/bbolt":   "a core says what to persist; its caller does it",
	"connectrpc.com/...": "a core gets messages, not connections",
}

// exempt from one row of forbiddenImports, with the reason.
var exempt = map[[2]string]string{
	{"internal/sim", "crypto/rand"}: "raft draws its election jitter from crypto/rand.Reader; the simulator puts its seed there",
	{"internal/sim", "runtime"}:     "a core that panics is a finding, told with its stack",
}

// forbiddenCalls of cores by package; "*" is any use of a package-level
// function other than those named in allowedCalls.
var forbiddenCalls = map[string]map[string]string{
	"time": {
		"Now": clock, "Since": clock, "Until": clock, "Sleep": clock, "After": clock, "AfterFunc": clock,
		"NewTimer": clock, "NewTicker": clock, "Tick": clock,
	},
	"math/rand":    {"*": chance},
	"math/rand/v2": {"*": chance},
}

const (
	clock  = "time is an argument, so that virtual time is as good as any"
	chance = "the package-level source cannot be seeded per run; take a *rand.Rand"
)

// allowedCalls make a source from a seed.
var allowedCalls = []string{"New", "NewSource", "NewPCG", "NewChaCha8", "NewZipf"}
