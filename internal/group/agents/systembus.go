package agents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	systemdName    = "org.freedesktop.systemd1"
	systemdPath    = dbus.ObjectPath("/org/freedesktop/systemd1")
	systemdManager = systemdName + ".Manager"
	systemdUnit    = systemdName + ".Unit"
	busProperties  = "org.freedesktop.DBus.Properties"
)

const (
	// connectTime is how long the bus is given to answer.
	connectTime = 5 * time.Second
	// cancelTime is how long systemd is given to take back a job.
	cancelTime = 2 * time.Second
)

// systemBus talks to systemd over the system bus, by one connection that is made when it is needed, and made again when
// it was lost: then everybody whose unit was watched is told to look again.
type systemBus struct {
	tell func(key, string)
	log  *slog.Logger
	dial func(dbus.ConnOption) (*dbus.Conn, error)

	connecting sync.Mutex

	mu     sync.Mutex
	closed bool
	conn   *dbus.Conn
	// units that resources are, whatever their types are called.
	units map[key]string
	// watched units by resource, with the state that was last told of each.
	watched map[key]dbus.ObjectPath
	states  map[dbus.ObjectPath]string
	// ended holds how jobs ended, as long as somebody waits for one; news is closed and replaced whenever there is one more.
	waiting int
	ended   map[dbus.ObjectPath]string
	news    chan struct{}
}

func newSystemBus(tell func(key, string), log *slog.Logger) *systemBus {
	return &systemBus{
		tell: tell, log: log, dial: func(o dbus.ConnOption) (*dbus.Conn, error) { return dbus.ConnectSystemBus(o) },
		units: map[key]string{}, watched: map[key]dbus.ObjectPath{}, states: map[dbus.ObjectPath]string{}, ended: map[dbus.ObjectPath]string{}, news: make(chan struct{}),
	}
}

// connection returns the one that there is, or makes one.
func (b *systemBus) connection(ctx context.Context) (*dbus.Conn, error) {
	b.connecting.Lock()
	defer b.connecting.Unlock()
	b.mu.Lock()
	conn, closed := b.conn, b.closed
	b.mu.Unlock()
	switch {
	case closed:
		return nil, errors.New("the engine is stopping")
	case conn != nil:
		return conn, nil
	}
	life, end := context.WithCancel(context.Background())
	slow := time.AfterFunc(connectTime, end)
	conn, err := b.dial(dbus.WithContext(life))
	if err != nil || !slow.Stop() {
		end()
		return nil, fmt.Errorf("the system bus can't be reached: %w", cmp.Or(err, context.DeadlineExceeded))
	}
	context.AfterFunc(conn.Context(), end)
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	err = errors.Join(
		conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(systemdName), dbus.WithMatchInterface(systemdManager)),
		conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(systemdName), dbus.WithMatchInterface(busProperties), dbus.WithMatchArg(0, systemdUnit)),
		conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, systemdName)),
		subscribe(ctx, conn),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("systemd can't be reached: %w", err), conn.Close())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errors.Join(errors.New("the engine is stopping"), conn.Close())
	}
	b.conn = conn
	go b.listen(conn, signals)
	return conn, nil
}

// subscribe makes systemd tell what happens.
func subscribe(ctx context.Context, conn *dbus.Conn) error {
	err := conn.Object(systemdName, systemdPath).CallWithContext(ctx, systemdManager+".Subscribe", 0).Err
	if isBusError(err, "AlreadySubscribed") {
		return nil
	}
	return err
}

// isBusError tells systemd's errors apart.
func isBusError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == systemdName+"."+name
}

func (b *systemBus) listen(conn *dbus.Conn, signals <-chan *dbus.Signal) {
	for s := range signals {
		b.signal(conn, s)
	}
	// The connection is lost.
	b.mu.Lock()
	if b.conn == conn {
		b.conn = nil
	}
	quiet := b.closed
	keys := b.everybody()
	clear(b.watched)
	clear(b.states)
	b.announce()
	b.mu.Unlock()
	if !quiet {
		b.log.Warn("the connection to the system bus was lost")
		b.tellAll(keys, "")
	}
}

func (b *systemBus) everybody() []key {
	keys := make([]key, 0, len(b.watched))
	for k := range b.watched {
		keys = append(keys, k)
	}
	return keys
}

func (b *systemBus) tellAll(keys []key, what string) {
	for _, k := range keys {
		b.tell(k, what)
	}
}

// announce wakes all who wait for jobs. The caller holds mu.
func (b *systemBus) announce() {
	close(b.news)
	b.news = make(chan struct{})
}

func (b *systemBus) signal(conn *dbus.Conn, s *dbus.Signal) {
	switch s.Name {
	case systemdManager + ".JobRemoved":
		var number uint32
		var job dbus.ObjectPath
		var unit, result string
		if dbus.Store(s.Body, &number, &job, &unit, &result) != nil {
			return
		}
		b.mu.Lock()
		if b.waiting > 0 {
			b.ended[job] = result
			b.announce()
		}
		b.mu.Unlock()
	case systemdManager + ".UnitNew", systemdManager + ".UnitRemoved":
		var name string
		var unit dbus.ObjectPath
		if dbus.Store(s.Body, &name, &unit) == nil {
			b.changed(unit, "")
		}
	case systemdManager + ".Reloading":
		// Units may have become others.
		var active bool
		if dbus.Store(s.Body, &active) == nil && !active {
			b.mu.Lock()
			keys := b.everybody()
			b.mu.Unlock()
			b.tellAll(keys, "")
		}
	case busProperties + ".PropertiesChanged":
		var of string
		var values map[string]dbus.Variant
		var without []string
		if dbus.Store(s.Body, &of, &values, &without) != nil {
			return
		}
		active, _ := values["ActiveState"].Value().(string)
		sub, _ := values["SubState"].Value().(string)
		if active != "" {
			b.changed(s.Path, active+" ("+sub+")")
		}
	case "org.freedesktop.DBus.NameOwnerChanged":
		var name, old, owner string
		if dbus.Store(s.Body, &name, &old, &owner) != nil || name != systemdName {
			return
		}
		if owner != "" {
			ctx, cancel := context.WithTimeout(conn.Context(), killTime)
			if err := subscribe(ctx, conn); err != nil {
				b.log.Warn("systemd does not tell changes", "error", err)
				_ = conn.Close() // and begin anew
			}
			cancel()
		}
		b.mu.Lock()
		keys := b.everybody()
		clear(b.states)
		b.mu.Unlock()
		b.tellAll(keys, "")
	}
}

// changed tells who watches a unit; a state that was told before is no news.
func (b *systemBus) changed(unit dbus.ObjectPath, state string) {
	b.mu.Lock()
	var keys []key
	for k, u := range b.watched {
		if u == unit {
			keys = append(keys, k)
		}
	}
	if len(keys) > 0 && state != "" {
		if b.states[unit] == state {
			keys = nil
		}
		b.states[unit] = state
	}
	b.mu.Unlock()
	what := ""
	if state != "" {
		what = "the unit is now " + state
	}
	b.tellAll(keys, what)
}

// watch has changes of a unit told.
func (b *systemBus) watch(k key, unit dbus.ObjectPath) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn == nil {
		return false
	}
	b.watched[k] = unit
	return true
}

func (b *systemBus) forget(k key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	unit, ok := b.watched[k]
	if !ok {
		return
	}
	delete(b.watched, k)
	for _, u := range b.watched {
		if u == unit {
			return
		}
	}
	delete(b.states, unit)
}

// manages notes which unit a resource is; empty: none any more.
func (b *systemBus) manages(k key, unit string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if unit == "" {
		delete(b.units, k)
	} else {
		b.units[k] = unit
	}
}

func (b *systemBus) unitOf(k key) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.units[k]
}

// job asks for a job and waits for its end. It is taken back when ctx ends.
func (b *systemBus) job(ctx context.Context, method, unit string) (result string, err error) {
	conn, err := b.connection(ctx)
	if err != nil {
		return "", err
	}
	b.mu.Lock()
	b.waiting++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.waiting--; b.waiting == 0 {
			clear(b.ended)
		}
	}()
	var job dbus.ObjectPath
	if err := conn.Object(systemdName, systemdPath).CallWithContext(ctx, systemdManager+"."+method, 0, unit, "replace").Store(&job); err != nil {
		return "", err
	}
	for {
		b.mu.Lock()
		result, over := b.ended[job]
		lost, news := b.conn != conn, b.news
		b.mu.Unlock()
		switch {
		case over:
			return result, nil
		case lost:
			return "", errors.New("the connection to systemd was lost while it was at work")
		}
		select {
		case <-news:
		case <-ctx.Done():
			back, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
			defer cancel()
			if err := conn.Object(systemdName, job).CallWithContext(back, systemdName+".Job.Cancel", 0).Err; err != nil {
				b.log.Warn("a job of systemd could not be taken back", "unit", unit, "error", err)
			}
			return "", ctx.Err()
		}
	}
}

// manager calls a method of systemd.
func (b *systemBus) manager(ctx context.Context, method string, args ...any) *dbus.Call {
	conn, err := b.connection(ctx)
	if err != nil {
		return &dbus.Call{Err: err}
	}
	return conn.Object(systemdName, systemdPath).CallWithContext(ctx, systemdManager+"."+method, 0, args...)
}

// properties of an object.
func (b *systemBus) properties(ctx context.Context, object dbus.ObjectPath, of string) (map[string]dbus.Variant, error) {
	conn, err := b.connection(ctx)
	if err != nil {
		return nil, err
	}
	var all map[string]dbus.Variant
	err = conn.Object(systemdName, object).CallWithContext(ctx, busProperties+".GetAll", 0, of).Store(&all)
	return all, err
}

func (b *systemBus) close() {
	b.mu.Lock()
	b.closed = true
	conn := b.conn
	b.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}
