package arbiterd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Init of a new arbiter.
type Init struct {
	// Dir is made if it is missing.
	Dir string
	// Listen on HOST:PORT; an empty HOST is every address. Empty: every address, default port.
	Listen string
	// Address by which clusters find it, HOST:PORT. Empty: Listen's, or this machine's name if that is none.
	Address string
}

// A Made arbiter, as people need to know it.
type Made struct {
	Instance, KeyFingerprint, Listen, Address string
}

// Make a new arbiter. It refuses a directory that holds one.
func Make(i Init) (Made, error) {
	if i.Listen == "" {
		i.Listen = ":" + arbiter.DefaultPort
	}
	host, port, err := net.SplitHostPort(i.Listen)
	if err != nil {
		return Made{}, fmt.Errorf("listen on %q: HOST:PORT or :PORT is expected: %w", i.Listen, err)
	}
	if i.Address == "" {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			if host, err = os.Hostname(); err != nil {
				return Made{}, err
			}
		}
		i.Address = net.JoinHostPort(host, port)
	}
	if err := arbiter.CheckAddress(i.Address); err != nil {
		return Made{}, err
	}
	if err := makeDir(i.Dir); err != nil {
		return Made{}, err
	}
	self := &arbiterpb.Self{Listen: i.Listen, Address: i.Address, Made: time.Now().UnixMilli(), Instance: newInstance(), PassSecret: random(32)}
	if err := makeKey(self); err != nil {
		return Made{}, err
	}
	if err := createStore(filepath.Join(i.Dir, FileStore), self); err != nil {
		return Made{}, err
	}
	fp, err := fingerprint(self)
	return Made{self.Instance, fp, self.Listen, self.Address}, err
}

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o: others could reach the arbiter's socket and key; chmod 700 it", dir, info.Mode().Perm())
	}
	return nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func newInstance() string { return hex.EncodeToString(random(arbiter.InstanceSize)) }

// makeKey and a certificate around it. Clients know the key: the rest of the
// certificate says nothing to them, and it never expires.
func makeKey(self *arbiterpb.Self) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(random(15)),
		Subject:      pkix.Name{CommonName: "arbiter " + self.Instance, Organization: []string{"Holdfast"}},
		NotBefore:    time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if self.Certificate, err = x509.CreateCertificate(rand.Reader, t, t, key.Public(), key); err != nil {
		return err
	}
	self.Key, err = x509.MarshalPKCS8PrivateKey(key)
	return err
}

func fingerprint(self *arbiterpb.Self) (string, error) {
	c, err := x509.ParseCertificate(self.GetCertificate())
	if err != nil {
		return "", damaged("the arbiter's certificate: %v", err)
	}
	fp := arbiter.Fingerprint(c)
	return hex.EncodeToString(fp[:]), nil
}

func serverTLS(self *arbiterpb.Self) (*tls.Config, error) {
	c, err := x509.ParseCertificate(self.GetCertificate())
	if err != nil {
		return nil, damaged("the arbiter's certificate: %v", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(self.GetKey())
	if err != nil {
		return nil, damaged("the arbiter's key: %v", err)
	}
	if k, ok := key.(*ecdsa.PrivateKey); !ok || !k.PublicKey.Equal(c.PublicKey) {
		return nil, damaged("the arbiter's key is not that of its certificate")
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}},
		ClientAuth:             tls.RequireAnyClientCert, // judged after the handshake, so that a refusal can say why
		SessionTicketsDisabled: true,
		NextProtos:             []string{arbiter.ALPN},
	}, nil
}

// Restore makes an arbiter from a backup: another instance, with the same key,
// where every cluster abstains until it is admitted again. It returns how many
// clusters that are.
func Restore(backup, dir string) (Made, int, error) {
	if err := makeDir(dir); err != nil {
		return Made{}, 0, err
	}
	path := filepath.Join(dir, FileStore)
	if _, err := os.Lstat(path); err == nil {
		return Made{}, 0, fmt.Errorf("%s exists already; nothing was changed: move it away first, and make sure that no arbiter is running from it: %w", path, fs.ErrExist)
	}
	tmp := path + ".new"
	if err := copyFile(tmp, func(w io.Writer) error {
		f, err := os.Open(backup)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}); err != nil {
		return Made{}, 0, err
	}
	made, clusters, err := restored(tmp)
	if err != nil {
		_ = os.Remove(tmp)
		return Made{}, 0, fmt.Errorf("restore %s: %w", backup, err)
	}
	return made, clusters, publish(path, tmp, nil)
}

func restored(path string) (Made, int, error) {
	s, err := openStore(path, true)
	if err != nil {
		return Made{}, 0, err
	}
	clusters := 0
	err = s.update(func(t *tables) error {
		self := s.self
		self.Was = append(self.Was, self.Instance)
		self.Instance, self.PassSecret = newInstance(), random(32)
		if err := placed(path, self); err != nil {
			return err
		}
		if err := t.putSelf(self); err != nil {
			return err
		}
		type one struct {
			id   uuid
			kept *witnesspb.Kept
		}
		var all []one // a table is not changed while one walks through it
		if err := t.each(func(id uuid, _ *arbiterpb.Registration, k *witnesspb.Kept, _ int) error {
			all = append(all, one{id, k})
			return nil
		}); err != nil {
			return err
		}
		clusters = len(all)
		for _, c := range all {
			c.kept.Abstains = true
			c.kept.Sequence++
			if err := t.putKept(c.id, c.kept); err != nil {
				return err
			}
		}
		// What was not used may have been used since.
		var hashes [][]byte
		if err := t.eachToken(func(h []byte, _ *arbiterpb.Token) error {
			hashes = append(hashes, append([]byte(nil), h...))
			return nil
		}); err != nil {
			return err
		}
		for _, h := range hashes {
			if err := t.deleteToken(h); err != nil {
				return err
			}
		}
		return nil
	})
	fp, ferr := fingerprint(s.self)
	return Made{s.self.Instance, fp, s.self.Listen, s.self.Address}, clusters, errors.Join(err, ferr, s.close())
}

// Moved accepts a store whose file was moved by hand. Who says so answers for
// its being the newest there is.
func Moved(dir string) error {
	path := filepath.Join(dir, FileStore)
	s, err := openStore(path, true)
	if err != nil {
		return err
	}
	err = s.update(func(t *tables) error {
		if err := placed(path, s.self); err != nil {
			return err
		}
		return t.putSelf(s.self)
	})
	return errors.Join(err, s.close())
}

// BackupOffline copies the store of an arbiter that is not running.
func BackupOffline(dir, file string) error {
	s, err := openStore(filepath.Join(dir, FileStore), false)
	if err != nil {
		return err
	}
	return errors.Join(WriteBackup(file, s.copyTo), s.close())
}

// WriteBackup makes a new private file with what copy writes, and checks it.
func WriteBackup(file string, copy func(io.Writer) error) error {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("%s exists already; nothing was changed: %w", file, fs.ErrExist)
	}
	tmp := file + ".new"
	err := copyFile(tmp, copy)
	if err == nil {
		var s *store
		if s, err = openStore(tmp, true); err == nil {
			// bbolt numbers the meta pages of a copy by its own lights; two
			// transactions later they alternate again, as the check wants it.
			nothing := func(*tables) error { return nil }
			err = errors.Join(s.update(nothing), s.update(nothing), s.close())
		}
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("backup to %s: %w", file, err)
	}
	return publish(file, tmp, nil)
}

func copyFile(path string, write func(io.Writer) error) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path)
	}
	return err
}
