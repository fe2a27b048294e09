//go:build linux

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Debian packages that machines are made of.
const (
	kernelPackage  = "linux-image-amd64" // depends on the newest one
	busyboxPackage = "busybox-static"
)

// kernelFiles is what was unpacked.
type kernelFiles struct {
	release, image, busybox string
	modules                 map[string]string // path by name
	builtin                 map[string]bool
}

// kernel unpacks the packages into the cache, unless they are there.
func kernel(ctx context.Context, cache string) (*kernelFiles, error) {
	name, err := newestKernel(ctx)
	var root string
	if err == nil {
		root, err = unpack(ctx, cache, name)
	}
	if err != nil {
		// Without package lists, or without a network, one that was unpacked before will do.
		kept, _ := filepath.Glob(filepath.Join(cache, "linux-image-*"))
		if len(kept) == 0 {
			return nil, err
		}
		slices.Sort(kept)
		root = kept[len(kept)-1]
	}
	k := &kernelFiles{modules: map[string]string{}, builtin: map[string]bool{}}
	images, _ := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if len(images) != 1 {
		return nil, fmt.Errorf("%s holds %d kernels: remove it", root, len(images))
	}
	k.image = images[0]
	k.release = strings.TrimPrefix(filepath.Base(k.image), "vmlinuz-")
	dirs, _ := filepath.Glob(filepath.Join(root, "*", "modules", k.release)) // lib
	usr, _ := filepath.Glob(filepath.Join(root, "usr", "lib", "modules", k.release))
	for _, dir := range append(dirs, usr...) {
		if err := k.index(dir); err != nil {
			return nil, err
		}
	}
	box, err := unpack(ctx, cache, busyboxPackage)
	if err != nil {
		return nil, err
	}
	for _, path := range []string{"bin/busybox", "usr/bin/busybox"} {
		if _, err := os.Stat(filepath.Join(box, path)); err == nil {
			k.busybox = filepath.Join(box, path)
		}
	}
	if k.busybox == "" || len(k.modules) == 0 {
		return nil, fmt.Errorf("%s and %s lack what they should hold: remove them", root, box)
	}
	return k, nil
}

// newestKernel is the package that the general one depends on.
func newestKernel(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "--important", kernelPackage).Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache depends %s: %w (apt-get update may be needed)", kernelPackage, err)
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			return "linux-image-" + name, nil
		}
	}
	return "", fmt.Errorf("apt knows no package %s: apt-get update may be needed", kernelPackage)
}

// unpack a package into the cache, once.
func unpack(ctx context.Context, cache, name string) (string, error) {
	root := filepath.Join(cache, name)
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	tmp, err := os.MkdirTemp(cache, "get-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	get := exec.CommandContext(ctx, "apt-get", "download", "-q", name)
	get.Dir = tmp
	if out, err := get.CombinedOutput(); err != nil {
		return "", fmt.Errorf("apt-get download %s: %w\n%s", name, cause(ctx, err), out)
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != 1 {
		return "", fmt.Errorf("apt-get download %s made %d packages", name, len(debs))
	}
	files := filepath.Join(tmp, "files")
	if err := command(ctx, nil, "dpkg-deb", "-x", debs[0], files); err != nil {
		return "", err
	}
	return root, os.Rename(files, root)
}

// index the modules below a directory.
func (k *kernelFiles) index(dir string) error {
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(builtin)) {
		k.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), ".ko") {
			k.modules[moduleName(path)] = path
		}
		return err
	})
}

// moduleName is how the kernel calls a module.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// order returns the modules and what they depend on, in the order of loading.
func (k *kernelFiles) order(names []string) (paths []string, err error) {
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if seen[name] || k.builtin[name] {
			return nil
		}
		seen[name] = true
		path, ok := k.modules[name]
		if !ok {
			return fmt.Errorf("kernel %s has no module %s", k.release, name)
		}
		needs, err := dependencies(path)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return fmt.Errorf("%w, which %s needs", err, name)
			}
		}
		paths = append(paths, path)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// dependencies that a module names in its section .modinfo.
func dependencies(path string) (names []string, err error) {
	content, err := unpacked(context.Background(), path)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		rest, ok := strings.CutPrefix(string(entry), "depends=")
		if !ok {
			continue
		}
		for n := range strings.SplitSeq(rest, ",") {
			if n != "" {
				names = append(names, strings.ReplaceAll(n, "-", "_"))
			}
		}
	}
	return names, nil
}

// unpacked content of a module.
func unpacked(ctx context.Context, path string) ([]byte, error) {
	switch filepath.Ext(path) {
	case ".xz":
		return exec.CommandContext(ctx, "xz", "-dc", path).Output()
	case ".zst":
		return exec.CommandContext(ctx, "zstd", "-dc", path).Output()
	}
	return os.ReadFile(path)
}
