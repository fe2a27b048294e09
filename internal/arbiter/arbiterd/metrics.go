package arbiterd

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// metrics of an arbiter. Their labels name kinds and results, never clusters:
// their number does not grow with what is served.
type metrics struct {
	registry    *prometheus.Registry
	requests    *prometheus.CounterVec
	latency     *prometheus.HistogramVec
	connections *prometheus.CounterVec
	looks       *prometheus.CounterVec
	commits     prometheus.Counter
	changes     prometheus.Counter
	batch       prometheus.Histogram
	total       atomic.Uint64 // requests
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_arbiter_requests_total",
			Help: "Requests answered, by kind (prepare, accept, renew, suspect, look) and result."}, []string{"kind", "result"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "holdfast_arbiter_request_seconds",
			Help:    "From a request's arrival to the moment at which its answer may leave, by kind.",
			Buckets: []float64{1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 2}}, []string{"kind"}),
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_arbiter_connections_total",
			Help: "Connections that have ended their handshake, by result (ok, or why they were refused)."}, []string{"result"}),
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_arbiter_datagrams_total",
			Help: "Datagrams received, by result (ok, malformed, unknown, forged, expired, repeated)."}, []string{"result"}),
		commits: prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_arbiter_commits_total", Help: "Transactions of the store."}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_arbiter_changes_total", Help: "Changes made by these transactions."}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "holdfast_arbiter_commit_changes",
			Help: "Changes per transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 13)}),
	}
	m.registry.MustRegister(m.requests, m.latency, m.connections, m.looks, m.commits, m.changes, m.batch)
	return m
}

// follow what a running server shows of itself.
func (m *metrics) follow(s *Server) {
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("holdfast_arbiter_clusters", "Clusters that are registered.", func() float64 {
		served, _ := s.table.count()
		return float64(served)
	})
	gauge("holdfast_arbiter_forgotten_clusters", "Clusters that were forgotten.", func() float64 {
		_, forgotten := s.table.count()
		return float64(forgotten)
	})
	gauge("holdfast_arbiter_open_connections", "Connections of nodes.", func() float64 { return float64(s.open()) })
	gauge("holdfast_arbiter_store_bytes", "Size of the store.", func() float64 { return float64(s.store.size()) })
}

func (m *metrics) committed(changes int) {
	m.commits.Inc()
	m.changes.Add(float64(changes))
	m.batch.Observe(float64(changes))
}

func (m *metrics) answered(r *witnesspb.Request, reply *witnesspb.Reply, took time.Duration) {
	m.total.Add(1)
	kind := kindOf(r)
	m.requests.WithLabelValues(kind, resultOf(reply)).Inc()
	m.latency.WithLabelValues(kind).Observe(took.Seconds())
}

func kindOf(r *witnesspb.Request) string {
	switch r.GetBody().(type) {
	case *witnesspb.Request_Prepare:
		return "prepare"
	case *witnesspb.Request_Accept:
		return "accept"
	case *witnesspb.Request_Renew:
		return "renew"
	case *witnesspb.Request_Suspect:
		return "suspect"
	case *witnesspb.Request_Look:
		return "look"
	}
	return "none"
}

func resultOf(r *witnesspb.Reply) string {
	switch b := r.GetBody().(type) {
	case *witnesspb.Reply_Rejected:
		return "rejected"
	case *witnesspb.Reply_Refused:
		switch b.Refused.GetReason() {
		case witnesspb.Refused_REASON_SUSPECTED:
			return "suspected"
		case witnesspb.Refused_REASON_OLD_REGISTER:
			return "old_register"
		case witnesspb.Refused_REASON_WRONG_CLUSTER:
			return "wrong_cluster"
		case witnesspb.Refused_REASON_ABSTAINS:
			return "abstains"
		case witnesspb.Refused_REASON_DAMAGED:
			return "damaged"
		case witnesspb.Refused_REASON_MALFORMED:
			return "malformed"
		case witnesspb.Refused_REASON_OLD_VIEW:
			return "old_view"
		case witnesspb.Refused_REASON_FULL:
			return "full"
		}
		return "refused"
	}
	return "ok"
}
