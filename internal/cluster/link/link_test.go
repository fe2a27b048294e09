package link

import "testing"

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1":         "10.0.0.1:7946",
		"10.0.0.1:8000":    "10.0.0.1:8000",
		"fd00::1":          "[fd00::1]:7946",
		"[fd00::1]:8000":   "[fd00::1]:8000",
		"fe80::1%eth0":     "[fe80::1%eth0]:7946",
		"":                 "",
		"n1":               "",
		"10.0.0.1:0":       "",
		"0.0.0.0":          "",
		"[::]:7946":        "",
		"224.0.0.1":        "",
		"10.0.0.1:99999":   "",
		"10.0.0.1:8000:10": "",
	} {
		ep, err := Parse(in)
		if want == "" {
			if err == nil {
				t.Errorf("%q was taken as %v", in, ep)
			}
			continue
		}
		if err != nil || ep.String() != want {
			t.Errorf("%q: %v, %v; want %s", in, ep, err, want)
		}
	}
	if Endpoint("nonsense") != "nonsense" || Endpoint("10.0.0.1") != "10.0.0.1:7946" {
		t.Error("Endpoint")
	}
}
