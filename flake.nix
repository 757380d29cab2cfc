# Evaluated with Nix 2.26 and 2.34 for all of its systems; not built yet, nor has the test in a virtual machine run.
{
  description = "Sends Kubernetes pods as JSON to webhooks";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      linux = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      darwin = [
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      each =
        systems: output:
        nixpkgs.lib.genAttrs systems (
          system:
          output (
            import ./nix {
              pkgs = nixpkgs.legacyPackages.${system};
              revision = self.rev or self.dirtyRev or "unknown";
            }
          )
        );
    in
    {
      packages = each linux (k8vent: k8vent.packages);
      apps = each linux (k8vent: k8vent.apps);
      checks = each linux (k8vent: k8vent.checks);
      devShells = each (linux ++ darwin) (k8vent: k8vent.devShells);
      formatter = each (linux ++ darwin) (k8vent: k8vent.formatter);
    };
}
