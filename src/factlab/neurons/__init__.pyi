from .attribution import Neuron as Neuron
from .attribution import NeuronAttribution as NeuronAttribution
from .attribution import attribute_neurons as attribute_neurons
from .attribution import attribute_neurons_each as attribute_neurons_each
from .choice import prob_with_scaled as prob_with_scaled
from .choice import shared_neurons as shared_neurons
from .configs import NeuronConfig as NeuronConfig
