package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Who may do what. This is the only place where that is decided: one row per
// procedure, and a procedure without a row is the administrator's.

// Caller is who is at the other end of a connection, as its listener knows.
type Caller struct {
	// User is the name of the system user or of the certificate's holder.
	User string
	// Trusted is root, the daemon's own user, or a node: an administrator.
	Trusted bool
	// Who, for people: "root", "user alice", "node n2".
	Who string
	// From is where the caller is: "n1" for a socket there, else an address.
	From string
}

// Root is a caller on this machine that may do everything.
func Root(*http.Request) Caller { return Caller{Trusted: true, Who: "root", From: "this machine"} }

type callerKey struct{}

func callerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// scope of a procedure: what a role must be given for.
type scope int

const (
	cluster scope = iota // the whole cluster
	group                // the group that the request is about, or the cluster
	someone              // anything at all: every configured user
)

type permission struct {
	role  v1.Role
	scope scope
}

const (
	guest         = v1.Role_ROLE_GUEST
	operator      = v1.Role_ROLE_OPERATOR
	administrator = v1.Role_ROLE_ADMINISTRATOR
)

// permissions by service and method.
var permissions = map[string]permission{
	"ClusterService/Status":   {guest, someone},
	"ClusterService/Show":     {guest, someone},
	"ClusterService/Set":      {administrator, cluster},
	"ClusterService/Security": {guest, cluster},
	"ClusterService/Rotate":   {administrator, cluster},
	"ClusterService/Seed":     {administrator, cluster},
	"ClusterService/Destroy":  {administrator, cluster},
	"ClusterService/Backup":   {administrator, cluster},
	"ClusterService/Snapshot": {guest, cluster},

	"UserService/List":        {administrator, cluster},
	"UserService/Set":         {administrator, cluster},
	"UserService/Delete":      {administrator, cluster},
	"UserService/Certificate": {administrator, cluster},
	"UserService/Whoami":      {guest, someone},

	"NodeService/List":            {guest, someone},
	"NodeService/Show":            {guest, someone},
	"NodeService/Freeze":          {operator, cluster},
	"NodeService/Unfreeze":        {operator, cluster},
	"NodeService/Stop":            {administrator, cluster},
	"NodeService/Evacuate":        {operator, cluster},
	"NodeService/SetLoad":         {operator, cluster},
	"NodeService/Silence":         {operator, cluster},
	"NodeService/Add":             {administrator, cluster},
	"NodeService/Invite":          {administrator, cluster},
	"NodeService/ListInvitations": {administrator, cluster},
	"NodeService/Withdraw":        {administrator, cluster},
	"NodeService/Remove":          {administrator, cluster},

	"LinkService/List": {guest, someone},

	"QuorumService/Show":     {guest, someone},
	"QuorumService/Change":   {administrator, cluster},
	"QuorumService/Watch":    {guest, someone},
	"QuorumService/TryPoint": {administrator, cluster},

	"FenceService/List":        {guest, cluster},
	"FenceService/History":     {guest, cluster},
	"FenceService/Test":        {operator, cluster},
	"FenceService/ConfirmDown": {administrator, cluster},

	"GroupService/List":     {guest, someone},
	"GroupService/Show":     {guest, group},
	"GroupService/Online":   {operator, group},
	"GroupService/Offline":  {operator, group},
	"GroupService/Switch":   {operator, group},
	"GroupService/Freeze":   {operator, group},
	"GroupService/Unfreeze": {operator, group},
	"GroupService/Clear":    {operator, group},
	"GroupService/Flush":    {operator, group},
	"GroupService/Enable":   {operator, group},
	"GroupService/Disable":  {operator, group},
	// A wrong word here runs the group twice.
	"GroupService/AutoEnable":     {administrator, group},
	"GroupService/SetSwitching":   {operator, group},
	"GroupService/SetMaintenance": {operator, group},
	"GroupService/Forecast":       {guest, group},
	"GroupService/Dependencies":   {guest, someone},
	"GroupService/Drill":          {operator, group},

	"ResourceService/List":    {guest, someone},
	"ResourceService/Show":    {guest, group},
	"ResourceService/Online":  {operator, group},
	"ResourceService/Offline": {operator, group},
	"ResourceService/Probe":   {operator, group},
	"ResourceService/Clear":   {operator, group},
	"ResourceService/Action":  {operator, group},

	"ResourceService/ClearAdminWait": {operator, group},

	"SignalService/List":  {guest, someone},
	"SignalService/Set":   {operator, cluster},
	"SignalService/Clear": {operator, cluster},

	"TypeService/List": {guest, someone},
	"TypeService/Show": {guest, someone},

	// Of a group's administrator only groups of its own are taken; see groupsOf.
	"ConfigService/Apply":  {administrator, group},
	"ConfigService/Export": {guest, cluster},
	"ConfigService/Diff":   {guest, cluster},

	"EventService/List":   {guest, someone},
	"EventService/Follow": {guest, someone},

	"NotifierService/List": {guest, cluster},
	"NotifierService/Test": {operator, cluster},

	"ExplainService/Group":     {guest, group},
	"ExplainService/Resource":  {guest, group},
	"ExplainService/Node":      {guest, someone},
	"ExplainService/Event":     {guest, someone},
	"SimulateService/Simulate": {guest, someone},
	"OperationService/List":    {guest, someone},
	"OperationService/Get":     {guest, someone},
	"OperationService/Watch":   {guest, someone},
}

func procedureName(spec connect.Spec) string {
	return strings.TrimPrefix(spec.Procedure, "/holdfast.v1.")
}

func permissionFor(procedure string) permission {
	if p, ok := permissions[procedure]; ok {
		return p
	}
	return permission{administrator, cluster}
}

// access is the interceptor that enforces the table.
type access struct {
	s *server

	mu      sync.Mutex
	noted   time.Time
	skipped int
}

// notedEvery: refusals are written into the log of events at most so often, so
// that nobody can fill it.
const notedEvery = time.Second

func (a *access) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, err := a.admit(ctx, req.Spec(), req.Any())
		if err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

func (a *access) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (a *access) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		// All streams only read, and for all of them any role is enough: no request is needed to decide.
		ctx, err := a.admit(ctx, conn.Spec(), nil)
		if err != nil {
			return err
		}
		return next(ctx, conn)
	}
}

type auditKey struct{}

// admit a call, or say why not.
func (a *access) admit(ctx context.Context, spec connect.Spec, request any) (context.Context, error) {
	caller, procedure := callerOf(ctx), procedureName(spec)
	need := permissionFor(procedure)
	audit := &statepb.Audit{Who: caller.Who, From: caller.From, Procedure: procedure, Object: objectOf(request)}
	if spec.IdempotencyLevel != connect.IdempotencyNoSideEffects {
		ctx = context.WithValue(ctx, auditKey{}, audit)
	}
	if caller.Trusted {
		return ctx, nil
	}
	st, err := a.s.b.State(ctx)
	if err != nil {
		return nil, answered(err)
	}
	u := st.GetUsers()[caller.User]
	if u == nil {
		a.note(ctx, audit, "it is no user of this cluster")
		return nil, fail(CodeNotAllowed, "an administrator adds users with: holdfast user add NAME --role ROLE", "%s is no user of this cluster", cmp.Or(caller.Who, "the caller"))
	}
	if may(st, u, need, request) {
		return ctx, nil
	}
	why := "that needs the role " + state.RoleName(need.role) + map[scope]string{cluster: " in the cluster", group: " of the group or in the cluster"}[need.scope]
	a.note(ctx, audit, why)
	return nil, fail(CodeRole, "an administrator can give it with: holdfast user add "+u.GetName()+" --role "+state.RoleName(need.role),
		"user %s may not do this: %s, and %s is %s", u.GetName(), why, u.GetName(), state.RolesOf(u))
}

// may says whether a user has a role for what a request is about.
func may(st *statepb.State, u *v1.User, need permission, request any) bool {
	if u.GetRole() >= need.role {
		return true
	}
	switch need.scope {
	case someone:
		return len(u.GetGroups()) > 0
	case group:
		groups, ok := groupsOf(st, request)
		return ok && len(groups) > 0 && !slices.ContainsFunc(groups, func(g string) bool { return u.GetGroups()[g] < need.role })
	}
	return false
}

// groupsOf a request: what it is about is nothing but these groups.
func groupsOf(st *statepb.State, request any) (groups []string, ok bool) {
	if a, isApply := request.(*v1.ApplyRequest); isApply {
		d := a.GetDocuments()
		if a.GetPrune() || d.GetCluster() != nil || len(d.GetNodes())+len(d.GetTypes()) > 0 {
			return nil, false
		}
		for _, g := range d.GetGroups() {
			if st.GetGroups()[g.GetName()] == nil {
				return nil, false // to make a group is for the cluster's administrator
			}
			groups = append(groups, g.GetName())
		}
		return groups, true
	}
	if r, named := request.(interface{ GetGroup() string }); named && r.GetGroup() != "" {
		return append([]string{r.GetGroup()}, alsoActed(st, request)...), true
	}
	r, named := request.(interface{ GetResource() string })
	if !named {
		return nil, false
	}
	for _, name := range state.SortedKeys(st.GetGroups()) {
		for _, one := range st.GetGroups()[name].GetResources() {
			if one.GetName() == r.GetResource() {
				groups = append(groups, name)
			}
		}
	}
	return groups, true
}

// alsoActed are the further groups that an operation with propagate acts on.
func alsoActed(st *statepb.State, request any) []string {
	switch r := request.(type) {
	case *v1.OnlineGroupRequest:
		if r.GetPropagate() {
			return relatives(st.GetGroups(), r.GetGroup(), true, false)
		}
	case *v1.OfflineGroupRequest:
		if r.GetPropagate() {
			return relatives(st.GetGroups(), r.GetGroup(), false, true)
		}
	case *v1.SwitchGroupRequest:
		if r.GetPropagate() {
			return relatives(st.GetGroups(), r.GetGroup(), true, true)
		}
	}
	return nil
}

// objectOf a request, for the log of events.
func objectOf(request any) string {
	var parts []string
	if r, ok := request.(interface{ GetGroup() string }); ok && r.GetGroup() != "" {
		parts = append(parts, "group "+r.GetGroup())
	}
	if r, ok := request.(interface{ GetResource() string }); ok && r.GetResource() != "" {
		parts = append(parts, "resource "+r.GetResource())
	}
	if r, ok := request.(interface {
		GetName() string
		GetNode() string
	}); ok { // a signal
		parts = append(parts, "signal "+r.GetName())
	}
	switch r := request.(type) {
	case interface{ GetNode() string }:
		if r.GetNode() != "" {
			parts = append(parts, "node "+r.GetNode())
		}
	case interface{ GetNode() *v1.Node }:
		parts = append(parts, "node "+r.GetNode().GetName())
	case *v1.SetUserRequest:
		parts = append(parts, "user "+r.GetUser().GetName())
	case interface{ GetName() string }:
		parts = append(parts, r.GetName())
	case *v1.RotateRequest:
		parts = append(parts, strings.ToLower(strings.TrimPrefix(r.GetWhat().String(), "ROTATABLE_")))
	}
	return printable(strings.Join(parts, ", "))
}

// printable, for the request was not checked yet.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	if r := []rune(text); len(r) > objectMax {
		return string(r[:objectMax]) + "…"
	}
	return text
}

const objectMax = 120

// note a refusal in the log of events, if that can be done now.
func (a *access) note(ctx context.Context, by *statepb.Audit, why string) {
	a.mu.Lock()
	now := a.s.now()
	if now.Sub(a.noted) < notedEvery {
		a.skipped++
		a.mu.Unlock()
		return
	}
	skipped := a.skipped
	a.noted, a.skipped = now, 0
	a.mu.Unlock()
	e := state.AuditEvent(by, why)
	if skipped > 0 {
		e.Message += "; and " + count(skipped, "other refusal") + " before"
	}
	// The caller does not wait for it.
	ctx = context.WithoutCancel(context.WithValue(ctx, auditKey{}, nil))
	go func() {
		ctx, cancel := context.WithTimeout(ctx, submitFor)
		defer cancel()
		_ = a.s.submit(ctx, &statepb.Command{Change: &statepb.Command_Note{Note: &statepb.Note{Events: []*v1.Event{e}}}})
	}()
}

// withCaller tells the handlers who calls.
func withCaller(who func(*http.Request) Caller, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, who(r))))
	})
}
