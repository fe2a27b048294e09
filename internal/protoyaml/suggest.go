package protoyaml

import (
	"slices"
	"strings"
)

// Suggest returns the one of known that have was probably meant to be, or "".
func Suggest(have string, known []string) string {
	best, bestDistance := "", 1+max(1, len(have)/3)
	for _, k := range slices.Sorted(slices.Values(known)) {
		if fold(k) == fold(have) {
			return k
		}
		if d := distance(fold(have), fold(k), bestDistance); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// DidYouMean is the fix for an unknown name: the one that was probably meant,
// else all that there are. what is their plural: "nodes".
func DidYouMean(have string, known []string, what string) string {
	if s := Suggest(have, known); s != "" {
		return "did you mean " + s + "?"
	}
	return Known(known, what)
}

// Known lists names: "known nodes: n1, n2". what is their plural.
func Known(known []string, what string) string {
	const most = 20
	if len(known) == 0 {
		return "there are no " + what
	}
	sorted := slices.Sorted(slices.Values(known))
	if len(sorted) > most {
		return "known " + what + ": " + strings.Join(sorted[:most], ", ") + " …"
	}
	return "known " + what + ": " + strings.Join(sorted, ", ")
}

// fold makes system_list, SystemList and system-list the same.
func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours between a and b; limit or more is reported as limit.
func distance(a, b string, limit int) int {
	const longest = 100 // names are shorter; bounds the work for texts that are none
	if len(a) > longest || len(b) > longest || len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, last, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(last[j]+1, cur[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, last, cur = last, cur, before
	}
	return min(last[len(b)], limit)
}
