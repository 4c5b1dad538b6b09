"""The recipes that are still to be written, so that a search for one finds out.

Whoever writes one of them takes it out of here.
"""

from typing import NamedTuple


class Planned(NamedTuple):
    """A recipe that does not exist yet."""

    theme: str
    about: str
    """what it will show, a short phrase"""
    tags: str
    """what people search for, with commas between"""


PLANNED = {
    "second_order": Planned(
        "training",
        "steps that use the curvature, where they pay and where not",
        "newton, bfgs, l-bfgs, line search, hessian",
    ),
    "stochastic_depth": Planned(
        "training",
        "a residual network whose layers skip training at random",
        "drop path, layer drop, resnet",
    ),
    "fractional_max_pooling": Planned(
        "training",
        "pooling by factors between one and two",
        "downsampling, subsampling, random pooling",
    ),
    "population_based_training": Planned(
        "training",
        "a crowd of models that copy their best and explore",
        "pbt, hpo, tuning, evolutionary",
    ),
    "multi_label": Planned(
        "training",
        "several yes-or-no answers for one input",
        "multi-task, sigmoid, attributes, binary cross-entropy",
    ),
    "hierarchical_softmax": Planned(
        "training",
        "classes as leaves of a tree, for very many classes",
        "large vocabulary, huffman tree, softmax",
    ),
    "unsupervised_pretraining": Planned(
        "training",
        "weights that first learn to rebuild unlabeled data",
        "greedy layer-wise, stacked autoencoder, few labels",
    ),
    "semi_supervised": Planned(
        "training",
        "a handful of labels and a heap of unlabeled data",
        "pseudo-label, mean teacher, consistency, entropy minimization",
    ),
    "domain_adaptation": Planned(
        "training",
        "labels for one kind of data, answers for another",
        "dann, gradient reversal, domain shift, adversarial training",
    ),
    "weak_supervision": Planned(
        "training",
        "noisy rules in place of labels made by hand",
        "snorkel, label model, labeling functions, noisy labels",
    ),
    "contrastive_learning": Planned(
        "training",
        "features from telling views of one picture from others",
        "simclr, byol, nt-xent, self-supervised, ssl",
    ),
    "zero_shot": Planned(
        "training",
        "classes known by their description alone",
        "attributes, unseen classes, generalized zero-shot, zsl",
    ),
    "handcrafted_features": Planned(
        "convnets",
        "descriptors designed by people, with a linear classifier",
        "hog, lbp, svm, scikit-image",
    ),
    "wide_resnet": Planned(
        "convnets",
        "residual networks that are wide instead of deep",
        "wrn, residual network, cnn",
    ),
    "resnext": Planned(
        "convnets",
        "many thin paths in each residual block",
        "cardinality, grouped convolution, residual network, cnn",
    ),
    "fractalnet": Planned(
        "convnets",
        "depth without shortcuts, by self-similar branches",
        "drop path, fractal, cnn",
    ),
    "architecture_search": Planned(
        "convnets",
        "a search that designs the network",
        "nas, darts, automl, neural architecture search",
    ),
    "localization": Planned(
        "vision",
        "one object: what it is, and the box around it",
        "bounding box, iou, box regression",
    ),
    "pose_estimation": Planned(
        "vision",
        "where the joints of a body are",
        "keypoints, heat map, pck, landmarks",
    ),
    "semantic_segmentation": Planned(
        "vision",
        "a class for each pixel",
        "fcn, u-net, unet, transposed convolution, upsampling, miou",
    ),
    "dense_crf": Planned(
        "vision",
        "sharper segments, by pixels that talk to each other",
        "conditional random field, mean field, segmentation",
    ),
    "unsupervised_segmentation": Planned(
        "vision",
        "segments without labels",
        "k-means, slic, superpixels, co-segmentation",
    ),
    "rcnn": Planned(
        "vision",
        "detection by classifying proposed regions",
        "r-cnn, fast r-cnn, object detection, roi pooling, nms, mean average precision",
    ),
    "faster_rcnn": Planned(
        "vision",
        "a detector that proposes its own regions",
        "faster r-cnn, rpn, anchors, object detection",
    ),
    "yolo": Planned(
        "vision",
        "all boxes of a picture in one look",
        "object detection, single shot, darknet",
    ),
    "ssd": Planned(
        "vision",
        "boxes from maps of many sizes",
        "object detection, single shot, retinanet, focal loss, anchors",
    ),
    "mask_rcnn": Planned(
        "vision",
        "a mask for each detected object",
        "mask r-cnn, instance segmentation, roi align, keypoints",
    ),
    "panoptic_segmentation": Planned(
        "vision",
        "things counted and stuff covered, in one map",
        "panoptic quality, instance masks, stuff and things",
    ),
    "pointnet": Planned(
        "vision",
        "classes of shapes given as points",
        "point cloud, 3d, point set, permutation invariance",
    ),
    "voxnet": Planned(
        "vision",
        "convolution in three dimensions",
        "voxel, 3d, occupancy grid, conv3d",
    ),
    "octnet": Planned(
        "vision",
        "fine detail in space without empty voxels",
        "octree, 3d, sparse convolution",
    ),
    "multi_view_cnn": Planned(
        "vision",
        "shapes recognized from pictures all around",
        "mvcnn, 3d, view pooling, rendering",
    ),
    "depth_fusion": Planned(
        "vision",
        "color and distance, joined early or late",
        "rgb-d, multimodal, late fusion",
    ),
    "point_graph_network": Planned(
        "vision",
        "edges between near points, found anew in each layer",
        "dgcnn, edgeconv, point cloud, 3d, k-nn",
    ),
    "vision_transformer": Planned(
        "vision",
        "a picture as a sequence of patches",
        "vit, deit, self-attention, patch embedding",
    ),
    "sequence_tagging": Planned(
        "sequences",
        "a label for each word, chosen together",
        "ner, named entity recognition, crf, bilstm, viterbi, pos tagging, nlp",
    ),
    "visual_question_answering": Planned(
        "sequences",
        "an answer to a question about a picture",
        "vqa, multimodal, clevr",
    ),
    "video_classification": Planned(
        "sequences",
        "what happens, from many frames",
        "action recognition, 3d convolution, conv3d, c3d",
    ),
    "music_generation": Planned(
        "sequences",
        "melodies for several instruments",
        "midi, piano roll, musegan, audio",
    ),
    "speech_synthesis": Planned(
        "sequences",
        "a voice from text",
        "tts, text-to-speech, wavenet, tacotron, griffin-lim, mel spectrogram, audio",
    ),
    "neural_turing_machine": Planned(
        "sequences",
        "a network with a memory that it reads and writes",
        "ntm, memory network, copy task, addressing",
    ),
    "graph_neural_network": Planned(
        "sequences",
        "learning on nodes and edges",
        "gnn, gcn, gat, graphsage, node classification",
    ),
    "sparse_autoencoder": Planned(
        "generative",
        "codes in which few units speak at once",
        "sae, l1, sparsity, latent space",
    ),
    "context_autoencoder": Planned(
        "generative",
        "missing parts and colors filled in",
        "inpainting, colorization, split-brain, self-supervised",
    ),
    "variational_inference": Planned(
        "generative",
        "a hard posterior replaced by the nearest easy one",
        "elbo, mean field, bayes, reparameterization trick, bbvi",
    ),
    "boltzmann_machine": Planned(
        "generative",
        "energies that make data likely",
        "rbm, restricted boltzmann machine, contrastive divergence, energy-based model, dbn",
    ),
    "conditional_vae": Planned(
        "generative",
        "drawing what one asks for, by a code for the rest",
        "cvae, variational autoencoder, latent space",
    ),
    "pixelrnn": Planned(
        "generative",
        "pictures painted pixel by pixel, by recurrent cells",
        "autoregressive, row lstm, diagonal bilstm, likelihood",
    ),
    "style_gan": Planned(
        "generative",
        "style set layer by layer, from coarse to fine",
        "stylegan, adain, style mixing, truncation",
    ),
    "big_gan": Planned(
        "generative",
        "forging at scale, by classes",
        "biggan, class-conditional, spectral norm, spectral normalization, hinge loss, truncation",
    ),
    "spade": Planned(
        "generative",
        "pictures from a map of what is where",
        "gaugan, gan, semantic image synthesis, layout",
    ),
    "stack_gan": Planned(
        "generative",
        "pictures from words, in two stages",
        "stackgan, text-to-image, coarse to fine",
    ),
    "contrastive_predictive_coding": Planned(
        "generative",
        "features that tell what comes next",
        "cpc, infonce, self-supervised, mutual information",
    ),
    "simulator_surrogate": Planned(
        "generative",
        "a network in place of a slow simulation",
        "physics, ising, calorimeter, emulator, gan",
    ),
    "image_compression": Planned(
        "generative",
        "a learned file format for photographs",
        "codec, rate-distortion, entropy model, jpeg, quantization",
    ),
    "image_to_image": Planned(
        "generative",
        "one picture turned into another, learned from pairs",
        "pix2pix, gan, image translation, paired",
    ),
    "adversarial_examples": Planned(
        "adversarial",
        "tiny changes that make a network err",
        "fgsm, pgd, adversarial attack, robustness, security",
    ),
    "transfer_attack": Planned(
        "adversarial",
        "fooling a network that one cannot look into",
        "black-box attack, substitute model, security",
    ),
    "adversarial_patch": Planned(
        "adversarial",
        "a printed sticker that takes over the answer",
        "physical attack, sticker, attack, security",
    ),
    "fooling_images": Planned(
        "adversarial",
        "noise that a network is sure about",
        "evolved images, confidence, out-of-distribution",
    ),
    "adversarial_defenses": Planned(
        "adversarial",
        "what helps against attacks, and what only seems to",
        "adversarial training, robustness, adaptive attack, pgd, security",
    ),
    "adversarial_policies": Planned(
        "adversarial",
        "an agent misled by what it sees",
        "rl, dqn, attack, fgsm, robustness",
    ),
}
