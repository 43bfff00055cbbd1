"""What folders mean: a table of layouts that data sets have, and of those that are refused."""

import re

import pytest

from image_pipeline.common.errors import DataError
from image_pipeline.reading.folder_layout import Layout, read_layout
from refusals import said_by


def expanded(name: str) -> list[str]:
    """Expand braces as a shell does: `{a,b}/1.jpg` is a/1.jpg and b/1.jpg."""
    if not (found := re.fullmatch(r"(.*?)\{(.*?)\}(.*)", name)):
        return [name]
    begin, middle, end = found.groups()
    return [each for part in middle.split(",") for each in expanded(f"{begin}{part}{end}")]


def read(files: str) -> Layout:
    """Read the layout of files; a name that ends with a slash is an empty folder."""
    folders: dict[str, bool] = {}
    for name in (each for word in files.split() for each in expanded(word)):
        folder = name.rpartition("/")[0]
        folders[folder] = folders.get(folder, False) or name.endswith(".jpg")
    return read_layout(folders, "pets.zip")


ABC = "{ant,bee,cat}/1.jpg"
# Files, and the folders of each class (`*` is its name): for training, and after a bar for test.
# Files that are in no class are not named there.
UNDERSTOOD = {
    "Cat/1.jpg ant/1.jpg ant/deep/er/2.jpg README.md": "Cat: *; ant: * */deep/er",
    "preview.jpg PetImages/{Cat,Dog}/1.jpg": "Cat Dog: PetImages/*",
    "x/{train,test}/{ant,bee}/1.jpg": "ant bee: x/train/* | x/test/*",
    "{TrainImages,testset,val2017}/{a,b}/1.jpg": "a b: TrainImages/* val2017/* | testset/*",
    "{PetsTrainval,PetsTest,pets_train_val}/{a,b}/1.jpg": (
        "a b: PetsTrainval/* pets_train_val/* | PetsTest/*"
    ),
    "{xray_train,chest-test}/{a,b}/1.jpg": "a b: xray_train/* | chest-test/*",
    "{dev,eval}/{a,b}/1.jpg": "a b: dev/* | eval/*",
    "{train,eval,test}/{a,b}/1.jpg": "a b: eval/* train/* | test/*",
    "train/{a,b}/1.jpg valid/b/1.jpg": "a: train/*; b: train/* valid/*",
    "{Training,Test}/{a,b}/1.jpg papers/fruit.pdf": "a b: Training/* | Test/*",
    "{train,test}/{a,b}/1.jpg predictions/submission.csv": "a b: train/* | test/*",
    "{a,b}/img/{train,test}/1.jpg": "a b: */img/train | */img/test",
    "{a,b}/train/1.jpg": "a b: */train",
    "{test_tube,flask,steam_train,toy-train}/1.jpg": "flask steam_train test_tube toy-train: *",
    "test_{pos,neg}/1.jpg": "test_neg test_pos: *",
    "{train,test}/{bus,train}/1.jpg": "bus train: train/* | test/*",
    "{cat,dog}/{cam1,cam2,Camera-3}/1.jpg": "cat dog: */Camera-3 */cam1 */cam2",
    "shoe/{nike,adidas}/1.jpg shirt/{nike,gucci}/1.jpg": (
        "shirt: */gucci */nike; shoe: */adidas */nike"
    ),
    "0/{1,2}/1.jpg 1/5/1.jpg 2/{8,9}/1.jpg": "0: */1 */2; 1: */5; 2: */8 */9",
    "{cat,dog}/images/1.jpg": "cat dog: */images",
    "{cat,dog}/{flipped/1.jpg,rotated/1.jpg,1.jpg}": "cat dog: * */flipped */rotated",
}


@pytest.mark.parametrize(("files", "meaning"), UNDERSTOOD.items(), ids=UNDERSTOOD)
def test_a_layout_is_understood(files: str, meaning: str) -> None:
    expected: dict[str, str] = {}
    for names, _, folders in (part.partition(": ") for part in meaning.split("; ")):
        expected |= {each: folders.replace("*", each) for each in names.split()}
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
    "seg_pred/seg_pred": f"{{seg_train/seg_train,seg_test/seg_test}}/{ABC}",
    "test": f"train/{ABC}",
    "test1/images": f"{{train/images,val/images}}/{ABC}",
    "test-multiple_fruits": f"{{Training,Test}}/{ABC}",
    "unlabeled": f"{{train,test}}/{ABC}",
    "predictions/ant": f"{{train,test}}/{ABC}",
}


@pytest.mark.parametrize(("folder", "labelled"), UNLABELLED.items())
def test_a_split_without_class_folders_is_told(folder: str, labelled: str) -> None:
    layout = read(f"{labelled} {folder}/1.jpg")
    assert layout.unlabelled == (folder.split("/")[0],)
    assert layout.class_names == ("ant", "bee", "cat")
    assert layout.meanings.pop(folder) == (-1, False)
    alone = read(f"{labelled} notes.txt")
    assert layout.has_test == alone.has_test
    assert layout.meanings.items() == {k: v for k, v in alone.meanings.items() if k}.items()


NO_SPLIT = "is in no split, though classes have train/ and test/ folders in them"
ALIKE = "have the same folders in them"
TOO_FEW = "expected at least two folders, one per class, such as cat/ and dog/; found:"
REFUSED = {
    "1.jpg": f"{TOO_FEW} none",
    "cat/{1,2}.jpg": f"{TOO_FEW} only 'cat'",
    f"{'x/' * 40}{{a,b}}/1.jpg": f"{TOO_FEW} only 'x'",
    "train.csv {train,test}_images/1.jpg": (
        "no class folders are in test_images/, train_images/; expected are folders like cat/ and "
        "dog/, or train/cat/, train/dog/, test/cat/, test/dog/"
    ),
    "{bus,car,train}/1.jpg": (
        "the folder bus/ is beside train/, and only train/, test/ and validation/ may be: move or "
        "remove it; or rename train/ if it is a class"
    ),
    "{cat,dog,test_images}/1.jpg": (
        "there is test_images/, but no train/; put the folders of the classes into train/; or "
        "remove test_images/ (`predict` can score it); or rename it if it is a class"
    ),
    f"train/{ABC} test/images/": "the folder test/ has no images; add some, or remove it",
    "train/1.jpg test/{a,b}/1.jpg": "no class folders are in train/; expected are folders like",
    "{a,b}/test/1.jpg": "the class 'a' is in test/ but not in train/; add images of it to train/",
    f"{{seg_train,seg_test}}/{ABC} seg_train/fox/1.jpg": (
        "the class 'fox' is in seg_train/ but not in seg_test/; add images of it to seg_test/, or "
        "remove it from seg_train/"
    ),
    f"{{train,val}}/{ABC} val/fox/1.jpg": (
        "the class 'fox' is in val/ but not in train/; add images of it to train/"
    ),
    "{images,masks}/1.jpg": "the folder images/ names no class; expected are folders like",
    f"x/{{color,grayscale,segmented}}/{ABC}": (
        f"the folders color/, grayscale/, segmented/ {ALIKE}, ant/, bee/, "
        "cat/; which are the classes? If the inner ones, put all images of each into one folder, "
        "or use one of the outer folders alone (x/color/); if the outer ones, move the images up"
    ),
    "{art,photo,sketch}/{a,b,c,d,e}/1.jpg art/f/1.jpg photo/about.jpg": (
        f"the folders art/, photo/, sketch/ {ALIKE}"
    ),
    f"{{new,old}}/train/{ABC} {{new,old}}/val/ant/1.jpg": (
        f"the folders new/, old/ {ALIKE}, ant/, bee/, cat/; which"
    ),
    "{cat,dog}/{left,right,indoor}/1.jpg": (
        f"the folders cat/, dog/ {ALIKE}, indoor/, left/, right/; which"
    ),
    "patient{0,1,2,3,4,5,6,7,8}/{0,1}/1.jpg p/0/1.jpg": (
        f"the folders p/, patient0/, patient1/, patient2/ and 6 more {ALIKE}, 0/, 1/; which"
    ),
    "{infected,healthy,cells/infected,cells/healthy}/1.jpg": (
        "the folder cells/ has folders in it that are named like those beside it, healthy/, "
        "infected/, so it is no class; move or remove it"
    ),
    "{0,1}/{train,test}/1.jpg 1/more/1.jpg": f"the folder 1/more/ {NO_SPLIT}",
    "{cat,dog}/{1.jpg,test/1.jpg}": f"what is in the folder cat/ {NO_SPLIT}",
}


@pytest.mark.parametrize(("files", "problem"), REFUSED.items(), ids=REFUSED)
def test_a_layout_is_refused(files: str, problem: str) -> None:
    assert said_by(DataError, read, files).startswith(f"pets.zip: {problem}")
