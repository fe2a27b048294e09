// Command simrun runs seeds of the simulator on all processors: runs of one
// process follow each other, because raft draws from a source that belongs to
// the whole process.
//
//	simrun -seeds 2000     fresh seeds
//	simrun -for 60s        fresh seeds until the time is over
//	simrun -seed 4711 -v   one seed, with its whole story
//	simrun -seed 4711 -shrink   leave out faults as long as it fails in the same way
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/internal/sim"
)

var (
	seed    = flag.Uint64("seed", 0, "run this seed only")
	seeds   = flag.Int("seeds", 0, "run so many seeds")
	first   = flag.Uint64("first", 0, "with -seeds: begin here instead of at a fresh one")
	length  = flag.Duration("for", 0, "run fresh seeds for so long")
	verbose = flag.Bool("v", false, "print the whole story")
	shrink  = flag.Bool("shrink", false, "find a smaller schedule of faults that fails in the same way")
	keep    = flag.Bool("k", false, "go on after a failure")
	procs   = flag.Int("procs", runtime.NumCPU(), "processes")
	twice   = flag.Bool("twice", false, "run each seed twice: a story that differs is a failure")
	worker  = flag.Bool("worker", false, "")
	profile = flag.String("profile", "", "write a CPU profile to this file (one process)")
)

func main() {
	flag.Parse()
	switch {
	case *worker:
		work()
	case *seed != 0 || flagGiven("seed"):
		os.Exit(single(*seed))
	case *seeds > 0 || *length > 0:
		os.Exit(many())
	default:
		flag.Usage()
		os.Exit(2)
	}
}

func flagGiven(name string) (given bool) {
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

func single(seed uint64) int {
	o := sim.Swarm(seed)
	var out io.Writer
	if *verbose {
		out = os.Stdout
	}
	r := sim.Run(o, out)
	if r.Failure == nil {
		fmt.Printf("seed %d: nothing broken in %s of virtual time, story %016x %s\n", seed, r.Virtual, r.Hash, r.Excused)
		return 0
	}
	if *shrink {
		r = sim.Shrink(r, func(left int) { fmt.Printf("\rfaults left: %d   ", left) })
		fmt.Println()
		for _, f := range r.Options.Schedule {
			fmt.Println("  ", f)
		}
	}
	fmt.Print(r.Report())
	return 1
}

// A line is what a worker says of one seed.
type line struct {
	Seed    uint64
	Failure string         `json:",omitempty"`
	Rule    string         `json:",omitempty"`
	Report  string         `json:",omitempty"`
	Excused string         `json:",omitempty"`
	Cover   map[string]int `json:",omitempty"`
	Virtual time.Duration
}

// work runs the seeds that stand on standard input.
func work() {
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "simrun:", err)
			os.Exit(1)
		}
		defer pprof.StopCPUProfile()
	}
	out := json.NewEncoder(os.Stdout)
	var s uint64
	for {
		if _, err := fmt.Scan(&s); err != nil {
			return
		}
		r := sim.Run(sim.Swarm(s), nil)
		l := line{Seed: s, Excused: r.Excused, Cover: r.Cover, Virtual: r.Virtual}
		if r.Failure != nil {
			l.Failure, l.Rule, l.Report = r.Failure.Error(), r.Failure.Rule, r.Report()
		}
		if *twice {
			if again := sim.Run(sim.Swarm(s), nil); again.Hash != r.Hash {
				l.Rule, l.Failure = "N7", fmt.Sprintf("N7: the seed told story %016x, then %016x", r.Hash, again.Hash)
				l.Report = "--- first\n" + r.Tail + "--- then\n" + again.Tail
			}
		}
		if err := out.Encode(l); err != nil {
			return
		}
	}
}

type workerProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func start() (*workerProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"-worker"}
	if *twice {
		args = append(args, "-twice")
	}
	if *profile != "" {
		args = append(args, "-profile", *profile)
	}
	w := &workerProcess{cmd: exec.Command(self, args...)}
	w.cmd.Stderr = os.Stderr
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = json.NewDecoder(stdout)
	return w, w.cmd.Start()
}

func many() int {
	base := *first
	if base == 0 {
		base = rand.Uint64() >> 24
	}
	if *profile != "" {
		*procs = 1
	}
	startTime := time.Now()
	next := make(chan uint64)
	stop := make(chan struct{})
	go func() {
		defer close(next)
		for i := 0; *seeds == 0 || i < *seeds; i++ {
			if *length > 0 && time.Since(startTime) > *length {
				return
			}
			select {
			case next <- base + uint64(i):
			case <-stop:
				return
			}
		}
	}()
	results := make(chan line)
	running := 0
	for range *procs {
		w, err := start()
		if err != nil {
			fmt.Fprintln(os.Stderr, "simrun:", err)
			return 1
		}
		running++
		go func() {
			defer func() { results <- line{Rule: "worker ended"} }()
			defer func() {
				_ = w.in.Close()
				_ = w.cmd.Wait()
			}()
			for s := range next {
				var l line
				_, err := io.WriteString(w.in, strconv.FormatUint(s, 10)+"\n")
				if err == nil {
					err = w.out.Decode(&l)
				}
				if err != nil {
					l = line{Seed: s, Rule: "N6", Failure: "the process ended: " + err.Error(), Report: fmt.Sprintf("replay: make sim SEED=%d\n", s)}
				}
				results <- l
				if err != nil {
					return
				}
			}
		}()
	}
	return collect(results, running, stop, startTime, base)
}

func collect(results chan line, running int, stop chan struct{}, startTime time.Time, base uint64) int {
	cover := map[string]int{}
	excused := map[string]int{}
	var failed []line
	var virtual time.Duration
	n, stopped := 0, false
	for running > 0 {
		l := <-results
		if l.Rule == "worker ended" {
			running--
			continue
		}
		n++
		virtual += l.Virtual
		for k, v := range l.Cover {
			cover[k] += v
		}
		if l.Excused != "" {
			excused[l.Excused]++
		}
		if l.Failure != "" {
			failed = append(failed, l)
			fmt.Printf("seed %d: %s\n", l.Seed, firstLine(l.Failure))
			if !*keep && !stopped {
				stopped = true
				close(stop)
			}
		}
	}
	took := time.Since(startTime)
	if len(failed) > 0 && !*keep {
		fmt.Print(failed[0].Report)
	}
	fmt.Printf("%d seeds from %d, %d failed; %v of virtual time in %v (%.1f seeds a second)\n", n, base, len(failed),
		virtual.Round(time.Second), took.Round(100*time.Millisecond), float64(n)/took.Seconds())
	for _, why := range sorted(excused) {
		fmt.Printf("%d seeds were excused from the second phase: %s\n", excused[why], why)
	}
	if *verbose {
		for _, k := range sorted(cover) {
			fmt.Printf("  %-32s %d\n", k, cover[k])
		}
	}
	if len(failed) > 0 {
		return 1
	}
	if missing := sim.Unseen(cover); n >= 100 && len(missing) > 0 {
		fmt.Printf("never happened in %d seeds: %s: the simulator does not test what it should\n", n, strings.Join(missing, ", "))
		return 1
	}
	return 0
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

func sorted(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
