// Command protogen compiles every .proto file of the repository and writes the
// Go code beside it. It needs no protoc: the compiler is a Go library, and the
// two generators are tools of this module. Then it has the reference page of the
// configuration written, which is made from the same files.
//
//	go run ./internal/protogen          # from the module root: write
//	go run ./internal/protogen -check   # exit 1 when a committed file is stale
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	check := flag.Bool("check", false, "compare instead of writing")
	flag.Parse()
	files, err := Generate(context.Background(), ".")
	if err == nil {
		err = apply(files, *check)
	}
	if err == nil {
		err = attributes(context.Background(), *check)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func apply(files map[string][]byte, check bool) error {
	var stale []error
	for name, want := range files {
		have, err := os.ReadFile(name)
		switch {
		case err == nil && bytes.Equal(have, want):
		case check:
			stale = append(stale, fmt.Errorf("%s is not current: run make generate", name))
		default:
			if err := os.WriteFile(name, want, 0o644); err != nil {
				return err
			}
		}
	}
	return errors.Join(stale...)
}

// attributes writes docs/attributes.md. It is a program of its own because it is
// built from the code that was just written.
func attributes(ctx context.Context, check bool) error {
	args := []string{"run", "./internal/schema/attributes"}
	if check {
		args = append(args, "-check")
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// Generate returns the Go files, by path below root, that the .proto files
// below root stand for.
func Generate(ctx context.Context, root string) (map[string][]byte, error) {
	protos, err := find(root)
	if err != nil {
		return nil, err
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard, // comments go into the Go code
	}
	compiled, err := compiler.Compile(ctx, protos...)
	if err != nil {
		return nil, err
	}
	req := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: protos,
		Parameter:      proto.String("paths=source_relative"),
	}
	seen := map[string]bool{}
	for _, f := range compiled {
		addWithImports(f, seen, &req.ProtoFile)
	}
	out := map[string][]byte{}
	for _, plugin := range []string{"protoc-gen-go", "protoc-gen-connect-go"} {
		if err := run(ctx, plugin, req, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func find(root string) ([]string, error) {
	var protos []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".proto") {
			rel, err := filepath.Rel(root, path)
			protos = append(protos, filepath.ToSlash(rel))
			return err
		}
		return nil
	})
	slices.Sort(protos)
	return protos, err
}

// addWithImports appends f after everything that it imports, as the plugin
// protocol wants it.
func addWithImports(f protoreflect.FileDescriptor, seen map[string]bool, out *[]*descriptorpb.FileDescriptorProto) {
	if seen[f.Path()] {
		return
	}
	seen[f.Path()] = true
	for i := range f.Imports().Len() {
		addWithImports(f.Imports().Get(i).FileDescriptor, seen, out)
	}
	*out = append(*out, protoutil.ProtoFromFileDescriptor(f))
}

func run(ctx context.Context, plugin string, req *pluginpb.CodeGeneratorRequest, out map[string][]byte) error {
	if plugin == "protoc-gen-connect-go" {
		// This generator makes a package of its own for the services of a
		// file; asked to, it puts them into the package of the messages.
		req = proto.CloneOf(req)
		req.Parameter = proto.String("paths=source_relative,package_suffix")
	}
	in, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", plugin)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stderr = os.Stderr
	raw, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", plugin, err)
	}
	var resp pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(raw, &resp); err != nil {
		return fmt.Errorf("%s: %w", plugin, err)
	}
	if resp.Error != nil {
		return fmt.Errorf("%s: %s", plugin, *resp.Error)
	}
	for _, f := range resp.File {
		out[f.GetName()] = []byte(f.GetContent())
	}
	return nil
}
