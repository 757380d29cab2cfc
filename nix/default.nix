# What flake.nix puts out for one system. The files here name what they take, from nixpkgs and from `project`.
{ pkgs, revision }:
let
  inherit (pkgs) lib;

  project = {
    inherit revision;
    manifest = (lib.importTOML ../Cargo.toml).package;
    source = call ./source.nix;
    k8vent = call ./package.nix;
    image = call ./image.nix;
    control-plane = call ./control-plane.nix;
  };
  all = pkgs // project;
  call = file: lib.callPackageWith all file { };
in
{
  packages = {
    inherit (project) k8vent;
    default = project.image;
    # Not among the checks: it wants KVM, and `nix flake check` fails on a machine without.
    vm-test = call ./vm-test.nix;
  };

  apps.default = {
    type = "app";
    program = lib.getExe project.k8vent;
    meta = { inherit (project.k8vent.meta) description; };
  };

  checks = lib.callPackagesWith all ./checks.nix { };

  devShells.default = call ./shell.nix;

  formatter = pkgs.nixfmt-tree;
}
