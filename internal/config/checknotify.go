package config

import (
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

func (c *checker) notifiers(p protoyaml.Path, cl *v1.Cluster) {
	names := map[string]bool{}
	for i, n := range cl.GetNotifiers() {
		at := p.Object("notifier", protoyaml.ElementName(n.GetName(), i))
		c.name(at, n.GetName())
		if n.GetName() != "" && names[n.GetName()] {
			c.fault(at.Field("name"), "is the name of two notifiers", "rename one")
		}
		names[n.GetName()] = true
		for j, code := range n.GetCodes() {
			if code == "" || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
				c.fault(at.Field("codes").Index(j), fmt.Sprintf("%q is not how a code of an event begins", code), "write group.faulted for one event, group. for all of groups; holdfast events shows codes")
			}
		}
		switch way := n.GetWay().(type) {
		case *v1.Notifier_Program:
			at := at.Field("program").Field("command")
			if problem, fix := checkCommand(way.Program.GetCommand()); problem != "" {
				c.fault(at, problem, fix)
			}
		case *v1.Notifier_Mail:
			c.mail(at.Field("mail"), way.Mail)
		case *v1.Notifier_Snmp:
			c.snmp(at.Field("snmp"), way.Snmp)
		case *v1.Notifier_Webhook:
			c.webhook(at.Field("webhook"), way.Webhook)
		default:
			c.fault(at, "does not say how it tells", "write one of program:, mail:, snmp: and webhook:")
		}
	}
}

func (c *checker) mail(p protoyaml.Path, m *v1.MailNotifier) {
	c.server(p.Field("server"), m.GetServer(), "25")
	c.address(p.Field("from"), m.GetFrom())
	if len(m.GetTo()) == 0 {
		c.fault(p.Field("to"), "is empty: nobody would get the mail", "list addresses such as ops@example.com")
	}
	for i, to := range m.GetTo() {
		c.address(p.Field("to").Index(i), to)
	}
	switch {
	case m.GetUser() != "" && m.GetPasswordFile() == "":
		c.fault(p.Field("passwordFile"), "is missing: user needs a password", "write the path of a file whose first line is the password, the same on all nodes and readable by root only")
	case m.GetUser() == "" && m.GetPasswordFile() != "":
		c.fault(p.Field("user"), "is missing: there is a password of nobody", "write the user for authentication, or remove passwordFile")
	}
	c.path(p.Field("passwordFile"), m.GetPasswordFile())
	c.path(p.Field("caFile"), m.GetCaFile())
}

// address of mail, bare.
func (c *checker) address(at protoyaml.Path, a string) {
	const fix = "write an address such as ops@example.com"
	if a == "" {
		c.fault(at, "is missing", fix)
		return
	}
	if parsed, err := mail.ParseAddress(a); err != nil || parsed.Address != a || strings.ContainsAny(a, "\r\n\x00") {
		c.fault(at, fmt.Sprintf("%q is no address of mail", a), fix)
	}
}

// server checks host:port, of which the port may be left out.
func (c *checker) server(at protoyaml.Path, s, port string) {
	fix := "write host:port, or a host alone for port " + port
	if s == "" {
		c.fault(at, "is missing", fix)
		return
	}
	host, number, err := net.SplitHostPort(s)
	if err != nil {
		host, number = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), port
	}
	n, err := strconv.Atoi(number)
	if _, ip := netip.ParseAddr(host); ip != nil && !plainName(host) || err != nil || n < 1 || n > 65535 {
		c.fault(at, fmt.Sprintf("%q is no server", s), fix)
	}
}

func (c *checker) snmp(p protoyaml.Path, s *v1.SnmpNotifier) {
	c.server(p.Field("server"), s.GetServer(), "162")
	c.path(p.Field("communityFile"), s.GetCommunityFile())
	c.path(p.Field("authFile"), s.GetAuthFile())
	c.path(p.Field("privacyFile"), s.GetPrivacyFile())
	if s.GetVersion() == v1.SnmpVersion_SNMP_VERSION_V3 {
		if s.GetCommunityFile() != "" {
			c.fault(p.Field("communityFile"), "belongs to version v2c", "remove it, or write version: v2c")
		}
		if s.GetUser() == "" {
			c.fault(p.Field("user"), "is missing: version v3 is by user", "write the user that the receiver knows")
		}
		if s.GetPrivacyFile() != "" && s.GetAuthFile() == "" {
			c.fault(p.Field("authFile"), "is missing: there is no privacy without authentication", "write the path of a file with the pass phrase, or remove privacyFile")
		}
		return
	}
	for _, f := range []struct{ key, value string }{{"user", s.GetUser()}, {"authFile", s.GetAuthFile()}, {"privacyFile", s.GetPrivacyFile()}} {
		if f.value != "" {
			c.fault(p.Field(f.key), "belongs to version v3", "write version: v3, or remove it")
		}
	}
}

func (c *checker) webhook(p protoyaml.Path, w *v1.WebhookNotifier) {
	at := p.Field("url")
	c.path(p.Field("headersFile"), w.GetHeadersFile())
	c.path(p.Field("caFile"), w.GetCaFile())
	u, err := url.Parse(w.GetUrl())
	switch {
	case w.GetUrl() == "":
		c.fault(at, "is missing", "write https://host/path")
	case err != nil || u.Host == "" || u.Opaque != "" || u.Scheme != "https" && u.Scheme != "http":
		c.fault(at, fmt.Sprintf("%q is no address of the web", w.GetUrl()), "write https://host/path")
	case u.User != nil:
		// Not repeated in the message: it may hold a password.
		c.fault(at, "has a user in it, which would be readable in exports, backups and the log", "put a line Authorization: Basic … into a file that only root can read, and write headersFile: with its path")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		c.fault(at, fmt.Sprintf("%s would be told over the network without encryption", u.Hostname()), "write https; http is for receivers on the same machine, such as http://127.0.0.1:9093/")
	}
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() || strings.EqualFold(host, "localhost")
}
