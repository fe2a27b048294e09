package deliver

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gosnmp/gosnmp"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// The identifiers of docs/HOLDFAST-MIB.txt. No enterprise number has been assigned yet: until then they
// lie in netSnmpPlaypen, which NET-SNMP-MIB sets aside for private experiments, and engine ids bear the
// number of that arc's owner. An assigned number will replace both.
const (
	enterprise   = 8072
	mibRoot      = ".1.3.6.1.4.1.8072.9999.9999.18502"
	mibEvents    = mibRoot + ".0."
	mibObjects   = mibRoot + ".1."
	trapTest     = "5" // 1 to 4 are the severities
	sysUpTime    = ".1.3.6.1.2.1.1.3.0"
	snmpTrapOID  = ".1.3.6.1.6.3.1.1.4.1.0"
	maxDisplay   = 255 // octets of an SnmpAdminString
	snmpTimeout  = 10 * time.Second
	refusalPause = 100 * time.Millisecond
	// leastPhrase is RFC 3414's least length of a pass phrase.
	leastPhrase = 8
	// bootSeconds is how long one value of snmpEngineBoots lasts.
	bootSeconds = 1 << 16
)

// started is what sysUpTime counts from.
var started = time.Now()

type trapper struct{ *v1.SnmpNotifier }

func (w trapper) name() (way, to string) { return "snmp", w.GetServer() }

// EngineID is the authoritative engine of the v3 traps of a cluster: whichever node leads sends them.
func EngineID(clusterUUID string) []byte {
	id := binary.BigEndian.AppendUint32(nil, 1<<31|enterprise)
	id = append(id, 5) // octets of our own choice (RFC 3411, SnmpEngineID)
	if raw, err := hex.DecodeString(clusterUUID); err == nil && len(raw) > 0 && len(raw) <= 27 {
		return append(id, raw...)
	}
	return append(id, clusterUUID[:min(len(clusterUUID), 27)]...)
}

// engineTime is snmpEngineBoots and snmpEngineTime. Receivers refuse a pair that is much older than the
// last one, whichever node it comes from, so that it is made from the time of day: as if the engine began anew every 65536 s.
func engineTime(now time.Time) (boots, seconds uint32) {
	s := now.Unix()
	return uint32(s / bootSeconds), uint32(s % bootSeconds)
}

func (w trapper) open(m *Message, secrets *[]string) (*gosnmp.GoSNMP, error) {
	host, address, err := hostPort(w.GetServer(), 162)
	if err != nil {
		return nil, err
	}
	_, p, _ := net.SplitHostPort(address)
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return nil, err
	}
	g := &gosnmp.GoSNMP{Target: host, Port: uint16(port), Transport: "udp", Timeout: snmpTimeout, MaxOids: gosnmp.MaxOids, MaxRepetitions: 1}
	switch w.GetVersion() {
	case v1.SnmpVersion_SNMP_VERSION_V2C:
		g.Version, g.Community = gosnmp.Version2c, "public"
		if w.GetCommunityFile() != "" {
			if g.Community, err = secret(w.GetCommunityFile(), 1); err != nil {
				return nil, fmt.Errorf("communityFile: %w", err)
			}
			*secrets = append(*secrets, g.Community)
		}
	case v1.SnmpVersion_SNMP_VERSION_V3:
		g.Version, g.SecurityModel, g.MsgFlags = gosnmp.Version3, gosnmp.UserSecurityModel, gosnmp.NoAuthNoPriv
		if w.GetUser() == "" {
			return nil, errors.New("version v3 needs a user")
		}
		id := string(EngineID(m.ClusterUUID))
		usm := &gosnmp.UsmSecurityParameters{UserName: w.GetUser(), AuthoritativeEngineID: id}
		usm.AuthoritativeEngineBoots, usm.AuthoritativeEngineTime = engineTime(time.Now())
		if w.GetAuthFile() != "" {
			if usm.AuthenticationPassphrase, err = secret(w.GetAuthFile(), leastPhrase); err != nil {
				return nil, fmt.Errorf("authFile: %w", err)
			}
			*secrets = append(*secrets, usm.AuthenticationPassphrase)
			usm.AuthenticationProtocol, g.MsgFlags = gosnmp.SHA256, gosnmp.AuthNoPriv
		}
		if w.GetPrivacyFile() != "" {
			if w.GetAuthFile() == "" {
				return nil, errors.New("privacyFile needs authFile: SNMP has no privacy without authentication")
			}
			if usm.PrivacyPassphrase, err = secret(w.GetPrivacyFile(), leastPhrase); err != nil {
				return nil, fmt.Errorf("privacyFile: %w", err)
			}
			*secrets = append(*secrets, usm.PrivacyPassphrase)
			usm.PrivacyProtocol, g.MsgFlags = gosnmp.AES, gosnmp.AuthPriv
		}
		g.SecurityParameters, g.ContextEngineID = usm, id
	default:
		return nil, errors.New("version is to be v2c or v3")
	}
	return g, nil
}

func (w trapper) check() error {
	var secrets []string
	_, err := w.open(&Message{}, &secrets)
	return err
}

func (w trapper) send(ctx context.Context, _ string, m *Message, secrets *[]string) error {
	g, err := w.open(m, secrets)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, snmpTimeout)
	defer cancel()
	g.Context = ctx
	if err := g.Connect(); err != nil {
		return err
	}
	defer g.Conn.Close()
	if _, err := g.SendTrap(gosnmp.SnmpTrap{Variables: trap(m)}); err != nil {
		return err
	}
	// Nobody acknowledges a trap; but a machine on which nobody listens says so.
	_ = g.Conn.SetReadDeadline(time.Now().Add(refusalPause))
	var b [1]byte
	if _, err := g.Conn.Read(b[:]); errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s: nobody listens there", w.GetServer())
	}
	return nil
}

// trap holds the objects of the notification, in the order of the MIB.
func trap(m *Message) []gosnmp.SnmpPDU {
	e := m.Event
	severity := max(e.GetSeverity(), v1.Severity_SEVERITY_INFORMATION)
	kind := strconv.Itoa(int(severity))
	if e.GetNumber() == 0 {
		kind = trapTest
	}
	text := func(s string) []byte {
		s = printable(s)
		return []byte(strings.ToValidUTF8(s[:min(len(s), maxDisplay)], "")) // not in the middle of a character
	}
	str := func(n int, s string) gosnmp.SnmpPDU {
		return gosnmp.SnmpPDU{Name: mibObjects + strconv.Itoa(n) + ".0", Type: gosnmp.OctetString, Value: text(s)}
	}
	return []gosnmp.SnmpPDU{
		{Name: sysUpTime, Type: gosnmp.TimeTicks, Value: uint32(time.Since(started) / (10 * time.Millisecond))},
		{Name: snmpTrapOID, Type: gosnmp.ObjectIdentifier, Value: mibEvents + kind},
		str(1, m.Cluster),
		str(2, m.ClusterUUID),
		{Name: mibObjects + "3.0", Type: gosnmp.Counter64, Value: e.GetNumber()},
		{Name: mibObjects + "4.0", Type: gosnmp.OctetString, Value: dateAndTime(e.GetTimeMs())},
		{Name: mibObjects + "5.0", Type: gosnmp.Integer, Value: int(severity)},
		str(6, e.GetCode()),
		str(7, e.GetNode()),
		str(8, e.GetGroup()),
		str(9, e.GetResource()),
		str(10, e.GetNotifier()),
		str(11, e.GetMessage()),
	}
}

// dateAndTime is RFC 2579's DateAndTime, in UTC.
func dateAndTime(ms int64) []byte {
	t := time.UnixMilli(ms).UTC()
	b := binary.BigEndian.AppendUint16(nil, uint16(t.Year()))
	return append(b, byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), byte(t.Nanosecond()/1e8), '+', 0, 0)
}
