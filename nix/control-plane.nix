# What the tests run k8vent against: a folder for KUBEBUILDER_ASSETS.
{
  etcd,
  kubectl,
  kubernetes,
  lib,
  linkFarm,
}:
linkFarm "control-plane" {
  etcd = lib.getExe' etcd "etcd";
  # Of the package as it is: with other components it would be compiled anew.
  kube-apiserver = lib.getExe' kubernetes "kube-apiserver";
  kubectl = lib.getExe kubectl;
}
