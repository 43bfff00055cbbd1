"""What folders mean: a table of layouts that data sets have, and of those that are refused."""

import pytest

from image_pipeline.common.errors import DataError
from image_pipeline.reading.folder_layout import Layout, read_layout


def read(files: str) -> Layout:
    """Read the layout of files; a name that ends with a slash is an empty folder."""
    folders: dict[str, bool] = {}
    for name in files.split():
        folder = name.rpartition("/")[0]
        folders[folder] = folders.get(folder, False) or name.endswith(".jpg")
    return read_layout(folders, "pets.zip")


def classes_in(*tops: str, names: str = "ant bee cat") -> str:
    return " ".join(f"{top}/{name}/1.jpg" for top in tops for name in names.split())


# Files, and those of each class: (training, test). Files that are in no class are not named there.
UNDERSTOOD: dict[str, tuple[str, dict[str, str]]] = {
    "a folder per class": (
        "Cat/1.jpg ant/1.jpg ant/deep/er/2.jpg README.md",
        {"Cat": "Cat", "ant": "ant ant/deep/er"},
    ),
    "wrapped": ("a/b/cat/1.jpg a/b/dog/1.jpg", {"cat": "a/b/cat", "dog": "a/b/dog"}),
    "wrapped, beside stray files": (
        "LICENSE readme[1].txt PetImages/Cat/1.jpg PetImages/Dog/1.jpg PetImages/list.csv",
        {"Cat": "PetImages/Cat", "Dog": "PetImages/Dog"},
    ),
    "wrapped, beside a stray image": (
        "preview.jpg PetImages/Cat/1.jpg PetImages/Dog/1.jpg",
        {"Cat": "PetImages/Cat", "Dog": "PetImages/Dog"},
    ),
    "train alone": ("train/ant/1.jpg train/bee/1.jpg", {"ant": "train/ant", "bee": "train/bee"}),
    "train and test": (
        "x/train/ant/1.jpg x/train/bee/1.jpg x/test/ant/1.jpg x/test/bee/1.jpg",
        {"ant": "x/train/ant | x/test/ant", "bee": "x/train/bee | x/test/bee"},
    ),
    "training_set and test_set, wrapped once more": (
        "training_set/training_set/cats/1.jpg training_set/training_set/dogs/1.jpg "
        "test_set/test_set/cats/1.jpg test_set/test_set/dogs/1.jpg",
        {
            "cats": "training_set/training_set/cats | test_set/test_set/cats",
            "dogs": "training_set/training_set/dogs | test_set/test_set/dogs",
        },
    ),
    "a word for the set in both": (
        classes_in("seg_train/seg_train", "seg_test/seg_test", names="sea street"),
        {
            "sea": "seg_train/seg_train/sea | seg_test/seg_test/sea",
            "street": "seg_train/seg_train/street | seg_test/seg_test/street",
        },
    ),
    "in one word, and years": (
        classes_in("TrainImages", "testset", "val2017", names="a b"),
        {
            "a": "TrainImages/a val2017/a | testset/a",
            "b": "TrainImages/b val2017/b | testset/b",
        },
    ),
    "the split at the end of a word, and a word for two splits": (
        classes_in("PetsTrainval", "PetsTest", "pets_train_val", names="a b"),
        {
            "a": "PetsTrainval/a pets_train_val/a | PetsTest/a",
            "b": "PetsTrainval/b pets_train_val/b | PetsTest/b",
        },
    ),
    "all have a split's word": (
        classes_in("xray_train", "chest-test", names="a b"),
        {"a": "xray_train/a | chest-test/a", "b": "xray_train/b | chest-test/b"},
    ),
    "dev is for training, eval the test split": (
        classes_in("dev", "eval", names="a b"),
        {"a": "dev/a | eval/a", "b": "dev/b | eval/b"},
    ),
    "eval is for validation beside a test split": (
        classes_in("train", "eval", "test", names="a b"),
        {"a": "eval/a train/a | test/a", "b": "eval/b train/b | test/b"},
    ),
    "part of the classes in validation": (
        "train/a/1.jpg train/b/1.jpg valid/b/1.jpg",
        {"a": "train/a", "b": "train/b valid/b"},
    ),
    "a folder of papers beside the splits": (
        classes_in("Training", "Test", names="a b") + " papers/fruit.pdf",
        {"a": "Training/a | Test/a", "b": "Training/b | Test/b"},
    ),
    "a folder for predictions without images": (
        classes_in("train", "test", names="a b") + " predictions/submission.csv",
        {"a": "train/a | test/a", "b": "train/b | test/b"},
    ),
    "the split inside each class": (
        "0/training/1.jpg 0/test/1.jpg 1/training/1.jpg 1/test/writer/1.jpg",
        {"0": "0/training | 0/test", "1": "1/training | 1/test/writer"},
    ),
    "the split inside each class, and a folder between": (
        classes_in("a/img", "b/img", names="train test"),
        {"a": "a/img/train | a/img/test", "b": "b/img/train | b/img/test"},
    ),
    "one split inside each class": (
        "a/train/1.jpg b/train/1.jpg",
        {"a": "a/train", "b": "b/train"},
    ),
    "a split's word in names of classes": (
        "test_tube/1.jpg flask/1.jpg steam_train/1.jpg toy-train/1.jpg",
        {
            "flask": "flask",
            "steam_train": "steam_train",
            "test_tube": "test_tube",
            "toy-train": "toy-train",
        },
    ),
    "the same word in all names": (
        "test_positive/1.jpg test_negative/1.jpg",
        {"test_negative": "test_negative", "test_positive": "test_positive"},
    ),
    "a class called train, in splits": (
        classes_in("train", "test", names="bus train"),
        {"bus": "train/bus | test/bus", "train": "train/train | test/train"},
    ),
    "views of each class": (
        classes_in("cat", "dog", names="left right"),
        {"cat": "cat/left cat/right", "dog": "dog/left dog/right"},
    ),
    "cameras of each class": (
        classes_in("cat", "dog", names="cam1 cam2 Camera-3"),
        {"cat": "cat/Camera-3 cat/cam1 cat/cam2", "dog": "dog/Camera-3 dog/cam1 dog/cam2"},
    ),
    "writers of each class": (
        classes_in("3", "4", "7", names="writer1 writer2"),
        {digit: f"{digit}/writer1 {digit}/writer2" for digit in "347"},
    ),
    "other folders in each class": (
        "animal/cat/1.jpg animal/dog/1.jpg vehicle/bus/1.jpg vehicle/train/1.jpg",
        {"animal": "animal/cat animal/dog", "vehicle": "vehicle/bus vehicle/train"},
    ),
    "some of the same folders in each class": (
        "shoe/nike/1.jpg shoe/adidas/1.jpg shirt/nike/1.jpg shirt/gucci/1.jpg",
        {"shirt": "shirt/gucci shirt/nike", "shoe": "shoe/adidas shoe/nike"},
    ),
    "numbers in classes that are numbers": (
        "0/1/1.jpg 0/2/1.jpg 1/5/1.jpg 2/8/1.jpg 2/9/1.jpg",
        {"0": "0/1 0/2", "1": "1/5", "2": "2/8 2/9"},
    ),
    "a folder of the same name in each class": (
        "cat/images/1.jpg dog/images/1.jpg",
        {"cat": "cat/images", "dog": "dog/images"},
    ),
    "images beside the same folders in each class": (
        classes_in("cat", "dog", names="flipped rotated") + " cat/1.jpg dog/1.jpg",
        {
            "cat": "cat cat/flipped cat/rotated",
            "dog": "dog dog/flipped dog/rotated",
        },
    ),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_layout_is_understood(name: str) -> None:
    files, expected = UNDERSTOOD[name]
    layout = read(files)
    assert layout.class_names == tuple(sorted(expected))
    assert layout.unlabelled == ()
    found: dict[str, str] = {}
    for label, class_name in enumerate(layout.class_names):
        train, test = (
            " ".join(sorted(f for f, meaning in layout.meanings.items() if meaning == (label, t)))
            for t in (False, True)
        )
        found[class_name] = f"{train} | {test}" if layout.has_test else train
        assert test == "" or layout.has_test
    assert found == expected


UNLABELLED = {
    "seg_pred/seg_pred": classes_in("seg_train/seg_train", "seg_test/seg_test"),
    "test": classes_in("train"),
    "test1/images": classes_in("train/images", "val/images"),
    "test-multiple_fruits": classes_in("Training", "Test"),
    "unlabeled": classes_in("train", "test"),
    "predictions/ant": classes_in("train", "test"),
}


@pytest.mark.parametrize("folder", UNLABELLED)
def test_a_split_without_class_folders_is_told(folder: str) -> None:
    labelled = UNLABELLED[folder]
    layout = read(f"{labelled} {folder}/1.jpg")
    assert layout.unlabelled == (folder.split("/")[0],)
    assert layout.class_names == ("ant", "bee", "cat")
    assert layout.meanings.pop(folder) == (-1, False)
    alone = read(f"{labelled} notes.txt")
    assert layout.has_test == alone.has_test
    assert layout.meanings.items() == {k: v for k, v in alone.meanings.items() if k}.items()


REFUSED = {
    "no folders": (
        "1.jpg",
        "expected at least two folders, one per class, such as cat/ and dog/; found: none",
    ),
    "one class": ("cat/1.jpg cat/2.jpg", "such as cat/ and dog/; found: only 'cat'"),
    "one class in both splits": (
        "train/a/1.jpg test/a/1.jpg",
        "such as cat/ and dog/; found: only 'a'",
    ),
    "a table has the labels": (
        "train.csv train_images/1.jpg test_images/1.jpg",
        "no class folders are in test_images/, train_images/; expected are folders like cat/ and "
        "dog/, or train/cat/, train/dog/, test/cat/, test/dog/",
    ),
    "the split and the class in one name": (
        "cat_train/1.jpg cat_test/1.jpg dog_train/1.jpg dog_test/1.jpg dog_val/1.jpg",
        "no class folders are in cat_test/, cat_train/, dog_test/, dog_train/ and 1 more; expected",
    ),
    "classes beside train": (
        "bus/1.jpg car/1.jpg train/1.jpg",
        "the folder bus/ is beside train/, and only train/, test/ and validation/ may be: move or "
        "remove it; or rename train/ if it is a class",
    ),
    "the whole once more inside": (
        f"{classes_in('train', 'test')} {classes_in('chest/train', 'chest/test')}",
        "the folder chest/ is beside train/, and only",
    ),
    "a folder beside splits": (
        classes_in("seg_train", "seg_test", "other"),
        "the folder other/ is beside seg_train/, and only train/, test/ and validation/ may be",
    ),
    "classes beside test": (
        "cat/1.jpg dog/1.jpg test_images/1.jpg",
        "there is test_images/, but no train/; put the folders of the classes into train/; or "
        "remove test_images/ (`predict` can score it); or rename it if it is a class",
    ),
    "an empty test split": (
        classes_in("train") + " test/",
        "the folder test/ has no images; add some, or remove it",
    ),
    "an empty folder in the test split": (
        classes_in("train") + " test/images/",
        "the folder test/ has no images; add some, or remove it",
    ),
    "labels for the test split alone": (
        "train/1.jpg test/a/1.jpg test/b/1.jpg",
        "no class folders are in train/; expected are folders like",
    ),
    "a test split alone, in each class": (
        "a/test/1.jpg b/test/1.jpg",
        "the class 'a' is in test/ but not in train/; add images of it to train/",
    ),
    "a class that is only in training": (
        classes_in("seg_train", "seg_test") + " seg_train/fox/1.jpg",
        "the class 'fox' is in seg_train/ but not in seg_test/; add images of it to seg_test/, or "
        "remove it from seg_train/",
    ),
    "a class that is only in test": (
        classes_in("train", "test") + " test/fox/1.jpg",
        "the class 'fox' is in test/ but not in train/; add images of it to train/",
    ),
    "a class that is only in validation": (
        classes_in("train", "val") + " val/fox/1.jpg",
        "the class 'fox' is in val/ but not in train/; add images of it to train/",
    ),
    "images and masks": (
        "images/1.jpg masks/1.jpg",
        "the folder images/ names no class; expected are folders like",
    ),
    "images and labels in splits": (
        "train/images/1.jpg train/labels/1.txt valid/images/2.jpg valid/labels/2.txt",
        "the folder images/ names no class; expected are folders like",
    ),
    "versions of the images": (
        classes_in("x/color", "x/grayscale", "x/segmented"),
        "the folders color/, grayscale/, segmented/ have the same folders in them, ant/, bee/, "
        "cat/; which are the classes? If the inner ones, put all images of each into one folder, "
        "or use one of the outer folders alone (x/color/); if the outer ones, move the images up",
    ),
    "versions that lack a class, or have another file": (
        classes_in("art", "photo", "sketch", names="a b c d e") + " art/f/1.jpg photo/about.jpg",
        "the folders art/, photo/, sketch/ have the same folders in them",
    ),
    "versions, and a folder between": (
        classes_in("amazon/images", "webcam/images"),
        "the folders amazon/, webcam/ have the same folders in them",
    ),
    "versions in splits": (
        classes_in("train/color", "train/grey", "test/color", "test/grey"),
        "the folders color/, grey/ have the same folders in them",
    ),
    "versions of splits": (
        classes_in("original/train", "original/test", "augmented/train", "augmented/test"),
        "the folders augmented/, original/ have the same folders in them, ant/, bee/, cat/; which",
    ),
    "versions of splits, with one class for validation": (
        classes_in("new/train", "old/train") + " new/val/ant/1.jpg old/val/ant/1.jpg",
        "the folders new/, old/ have the same folders in them, ant/, bee/, cat/; which",
    ),
    "views, and another folder": (
        classes_in("cat", "dog", names="left right indoor"),
        "the folders cat/, dog/ have the same folders in them, indoor/, left/, right/; which",
    ),
    "wrapped too often": (f"{'x/' * 40}a/1.jpg {'x/' * 40}b/1.jpg", "found: only 'x'"),
    "patients": (
        classes_in(*(f"patient{number}" for number in range(9)), names="0 1") + " p/0/1.jpg",
        "the folders p/, patient0/, patient1/, patient2/ and 6 more have the same folders in them, "
        "0/, 1/; which",
    ),
    "the classes once more in a folder beside them": (
        "infected/1.jpg healthy/1.jpg cells/infected/1.jpg cells/healthy/1.jpg",
        "the folder cells/ has folders in it that are named like those beside it, healthy/, "
        "infected/, so it is no class; move or remove it",
    ),
    "splits in some classes": (
        "0/train/1.jpg 0/test/1.jpg 1/1.jpg",
        "what is in the folder 1/ is in no split, though classes have train/ and test/ folders in "
        "them; move or remove it; expected are folders like",
    ),
    "images beside the splits in a class": (
        "0/train/1.jpg 0/test/1.jpg 0/1.jpg 1/train/1.jpg 1/test/1.jpg",
        "what is in the folder 0/ is in no split, though",
    ),
    "an empty folder beside classes with splits": (
        "0/train/1.jpg 0/test/1.jpg 1/train/1.jpg 1/test/1.jpg 2/",
        "what is in the folder 2/ is in no split, though",
    ),
    "another folder beside the splits in a class": (
        "0/train/1.jpg 0/test/1.jpg 1/train/1.jpg 1/test/1.jpg 1/more/1.jpg",
        "the folder 1/more/ is in no split, though classes have train/ and test/ folders in them",
    ),
    "a test split in each class, beside training images": (
        "cat/1.jpg cat/test/1.jpg dog/1.jpg dog/test/1.jpg",
        "what is in the folder cat/ is in no split, though",
    ),
    "a class without one of the splits in it": (
        "0/train/1.jpg 0/test/1.jpg 1/train/1.jpg",
        "the class '1' is in train/ but not in test/; add images of it to test/",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layout_is_refused(name: str) -> None:
    files, problem = REFUSED[name]
    with pytest.raises(DataError) as caught:
        read(files)
    message = str(caught.value)
    assert message.startswith("pets.zip: ")
    assert problem in message
    assert message.isprintable()
