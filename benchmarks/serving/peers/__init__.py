"""The same model behind other servers, each as its own documentation says it is fastest."""
