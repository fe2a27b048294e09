package agents

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// kind is a bundled agent.
type kind struct {
	typ *v1.ResourceType
	// notes are rules for the reference page, beyond the descriptions of the type and its attributes.
	notes string
	// check finds faults of attribute values beyond their kinds; may be nil.
	check func(attributes map[string]string) []error
	// run carries out an entry point. It returns soon after ctx has ended.
	run func(ctx context.Context, h *Host, c agent.Call) agent.Result
}

var kinds = withDrills([]kind{
	applicationKind, elifNoneKind, fileNoneKind, fileOnOffKind, fileOnOnlyKind, genericResourceKind, ipKind, ipMultiNICKind, mountKind, multiNICKind, nicKind, packageScriptKind,
	packageServiceKind, persistentGenericResourceKind, phantomKind, processKind, proxyKind, subnetKind, systemdUnitKind,
})

func kindOf(name string) *kind {
	for i := range kinds {
		if kinds[i].typ.GetName() == name {
			return &kinds[i]
		}
	}
	return nil
}

// Types returns the resource types of the bundled agents, sorted by name. The caller may change what it gets.
func Types() []*v1.ResourceType {
	out := make([]*v1.ResourceType, 0, len(kinds))
	for _, k := range kinds {
		out = append(out, proto.CloneOf(k.typ))
	}
	slices.SortFunc(out, func(a, b *v1.ResourceType) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

// Check returns what is wrong with the attributes of a resource of a bundled type, before anything of it is run. The
// resource may leave out attributes that have a default.
func Check(r *v1.Resource) []error {
	k := kindOf(r.GetType())
	if k == nil {
		return []error{fmt.Errorf("there is no agent for type %q", r.GetType())}
	}
	attributes := map[string]string{}
	for _, a := range k.typ.GetAttributes() {
		attributes[a.GetName()] = a.GetDefault()
	}
	var errs []error
	for _, name := range sortedKeys(r.GetAttributes()) {
		if _, known := attributes[name]; !known {
			errs = append(errs, fmt.Errorf("%s is not an attribute of type %s", name, r.GetType()))
			continue
		}
		attributes[name] = r.GetAttributes()[name]
	}
	return append(errs, k.faults(attributes)...)
}

// faults of a complete set of attributes.
func (k *kind) faults(attributes map[string]string) []error {
	var errs []error
	for _, a := range k.typ.GetAttributes() {
		v := attributes[a.GetName()]
		if v == "" {
			if a.GetRequired() {
				errs = append(errs, fmt.Errorf("%s is missing: %s", a.GetName(), a.GetDescription()))
			}
			continue
		}
		if err := checkValue(a.GetKind(), v); err != nil {
			errs = append(errs, faultOf(a.GetName(), "%w", err))
		} else if len(a.GetWords()) > 0 && !slices.Contains(a.GetWords(), v) {
			errs = append(errs, faultOf(a.GetName(), "%q is none of %s", v, strings.Join(a.GetWords(), ", ")))
		}
	}
	if len(errs) == 0 && k.check != nil {
		errs = k.check(attributes)
	}
	return errs
}

// faultOf an attribute's value.
func faultOf(attribute, format string, args ...any) error {
	return fmt.Errorf("%s: %w", attribute, fmt.Errorf(format, args...))
}

func checkValue(k v1.AttributeKind, v string) error {
	switch k {
	case v1.AttributeKind_ATTRIBUTE_KIND_INTEGER:
		if _, err := strconv.ParseInt(v, 10, 64); err != nil {
			return fmt.Errorf("%q is not a whole number", v)
		}
	case v1.AttributeKind_ATTRIBUTE_KIND_BOOLEAN:
		if v != "true" && v != "false" {
			return fmt.Errorf("%q is neither true nor false", v)
		}
	case v1.AttributeKind_ATTRIBUTE_KIND_DURATION:
		if d, err := time.ParseDuration(v); err != nil || d < 0 {
			return fmt.Errorf("%q is not a duration such as 30s or 1m30s", v)
		}
	case v1.AttributeKind_ATTRIBUTE_KIND_COMMAND:
		_, err := command(v)
		return err
	case v1.AttributeKind_ATTRIBUTE_KIND_PATH:
		if !filepath.IsAbs(v) || strings.ContainsRune(v, 0) {
			return fmt.Errorf("%q is not an absolute path", v)
		}
	case v1.AttributeKind_ATTRIBUTE_KIND_LIST:
		_, err := words(v)
		return err
	case v1.AttributeKind_ATTRIBUTE_KIND_MAP:
		_, err := variables(v)
		return err
	case v1.AttributeKind_ATTRIBUTE_KIND_PREFIX:
		if _, err := netip.ParsePrefix(v); err != nil {
			return fmt.Errorf("%q is not an address with prefix length such as 10.0.0.9/24 or 2001:db8::9/64", v)
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Short forms for the tables of attributes and limits.
const (
	text     = v1.AttributeKind_ATTRIBUTE_KIND_STRING
	whole    = v1.AttributeKind_ATTRIBUTE_KIND_INTEGER
	list     = v1.AttributeKind_ATTRIBUTE_KIND_LIST
	table    = v1.AttributeKind_ATTRIBUTE_KIND_MAP
	flag     = v1.AttributeKind_ATTRIBUTE_KIND_BOOLEAN
	span     = v1.AttributeKind_ATTRIBUTE_KIND_DURATION
	program  = v1.AttributeKind_ATTRIBUTE_KIND_COMMAND
	path     = v1.AttributeKind_ATTRIBUTE_KIND_PATH
	prefix   = v1.AttributeKind_ATTRIBUTE_KIND_PREFIX
	required = true
)

func seconds(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

func failed(err error) agent.Result { return agent.Result{Err: err.Error()} }

func found(online, watched bool, message string) agent.Result {
	r := agent.Result{State: v1.ResourceState_RESOURCE_STATE_OFFLINE, Message: message, Watched: watched}
	if online {
		r.State = v1.ResourceState_RESOURCE_STATE_ONLINE
	}
	return r
}
